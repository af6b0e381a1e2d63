'use strict';
// Devices and modules that answer direct methods with azure-iot-device.

const { Client, ModuleClient } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { emit, run } = require('./harness');

const transports = { amqp: Amqp, 'amqp-ws': AmqpWs, mqtt: Mqtt, 'mqtt-ws': MqttWs };

// Answers until it is told that it was the last time.
async function answer(client, on) {
  const seen = [];
  await client.open();
  await new Promise((resolve, reject) => {
    const reply = (response, ...args) =>
      response.send(...args).catch(reject);
    on.call(client, 'setRate', (request, response) => {
      seen.push(request.payload);
      reply(response, 207, { name: request.methodName, rate: request.payload.rate });
    });
    on.call(client, 'nothing', (request, response) => {
      seen.push(request.payload);
      reply(response, 200);
    });
    on.call(client, 'silent', () => {});
    on.call(client, 'last', (request, response) => {
      reply(response, 200).then(resolve);
    });
    // The subscription has no callback: a round trip of the twin comes after it.
    client.getTwin().then(() => emit({ ready: true }), reject);
  });
  await client.close();
  return seen;
}

run({
  device: (context) => {
    const client = Client.fromConnectionString(context.device, transports[context.transport]);
    return answer(client, client.onDeviceMethod);
  },
  module: (context) => {
    const client = ModuleClient.fromConnectionString(
      context.module,
      transports[context.transport]
    );
    return answer(client, client.onMethod);
  },
});
