'use strict';
// Registers each of the given devices with azure-iot-provisioning-device, all at the same time.

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { Amqp, AmqpWs } = require('azure-iot-provisioning-device-amqp');
const { Http } = require('azure-iot-provisioning-device-http');
const { Mqtt, MqttWs } = require('azure-iot-provisioning-device-mqtt');
const { run } = require('./harness');

const transports = {
  amqp: Amqp,
  'amqp-ws': AmqpWs,
  http: Http,
  mqtt: Mqtt,
  'mqtt-ws': MqttWs,
};

run((context) =>
  Object.fromEntries(
    context.devices.map((device) => [
      device.name,
      async () => {
        const client = ProvisioningDeviceClient.create(
          context.host,
          device.idScope || context.idScope,
          new transports[device.transport](),
          new SymmetricKeySecurityClient(device.registrationId, device.key)
        );
        if (device.payload !== undefined) client.setProvisioningPayload(device.payload);
        return client.register();
      },
    ])
  )
);
