'use strict';
// A device with a client certificate in a hub, with azure-iot-device over each of its transports.

const { Client, Message, X509AuthenticationProvider } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Http } = require('azure-iot-device-http');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { refused, run } = require('./harness');

const transports = { amqp: Amqp, 'amqp-ws': AmqpWs, http: Http, mqtt: Mqtt, 'mqtt-ws': MqttWs };

function device(context, certificate) {
  const { host, deviceId, transport } = context;
  const provider = X509AuthenticationProvider.fromX509Options(deviceId, host, certificate);
  return Client.fromAuthenticationProvider(provider, transports[transport]);
}

async function send(client) {
  await client.open();
  await client.sendEvent(new Message('{}'));
}

run({
  own: async (context) => {
    const client = device(context, context.own);
    await send(client);
    await client.close();
    return true;
  },

  other: (context) => refused(send(device(context, context.other))),
});
