'use strict';
// A module behind an edge hub: what comes to its inputs, and methods.

const { ModuleClient } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { emit, run } = require('./harness');

const transports = { amqp: Amqp, 'amqp-ws': AmqpWs, mqtt: Mqtt, 'mqtt-ws': MqttWs };

run({
  inputs: async (context) => {
    const client = ModuleClient.fromConnectionString(
      context.connectionString,
      transports[context.transport]
    );
    await client.open();
    client.onMethod('turn', (request, response) => {
      response.send(201, { turned: request.payload }, () => {});
    });
    const seen = [];
    await new Promise((resolve) => {
      client.on('inputMessage', (name, message) => {
        client.complete(message, () => {
          seen.push({ input: name, body: message.getData().toString() });
          if (seen.length === context.count) resolve();
        });
      });
      emit({ ready: true });
    });
    emit({ seen });
    // Whoever started this script calls a method, and ends it.
    await new Promise(() => {
      setInterval(() => {}, 1000);
    });
    return seen;
  },
});
