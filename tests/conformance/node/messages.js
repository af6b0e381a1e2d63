'use strict';
// A device that receives and settles messages, and sends, with azure-iot-device.

const { Client, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Http } = require('azure-iot-device-http');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { emit, refused, run } = require('./harness');

const transports = {
  amqp: Amqp,
  'amqp-ws': AmqpWs,
  http: Http,
  mqtt: Mqtt,
  'mqtt-ws': MqttWs,
};

const shown = (message) => ({
  body: message.getData().toString(),
  messageId: message.messageId,
  correlationId: message.correlationId,
  to: message.to,
  properties: message.properties.propertyList,
});

// Receives until a message says that it is the last; does with each what its body says.
async function receive({ connectionString, transport, count }) {
  const client = Client.fromConnectionString(connectionString, transports[transport]);
  await client.open();
  const seen = [];
  await new Promise((resolve, reject) => {
    client.on('error', reject);
    client.on('message', async (message) => {
      seen.push(shown(message));
      const how = message.getData().toString();
      try {
        // An abandoned message comes again; twice is enough.
        const again = seen.filter((each) => each.body === how).length > 1;
        if (how === 'reject') await client.reject(message);
        else if (how === 'abandon' && !again) await client.abandon(message);
        else await client.complete(message);
        if (seen.length === count) resolve();
      } catch (error) {
        reject(error);
      }
    });
    emit({ ready: true });
  });
  await client.close();
  return seen;
}

function message(body, properties) {
  const made = new Message(body);
  made.messageId = 'id 1';
  made.correlationId = 'c/1';
  made.contentType = 'application/json';
  made.contentEncoding = 'utf-8';
  for (const [key, value] of Object.entries(properties)) made.properties.add(key, value);
  return made;
}

const scenarios = {
  receive: (context) => receive(context.receive),

  send: async ({ send, transport }) => {
    const client = Client.fromConnectionString(send, transports[transport]);
    await client.open();
    await client.sendEvent(message('{"t":21.5}', { alErt: 'true' }));
    const more = [
      message('{"n":1}', { 'dt-subject': 'part' }),
      new Message(Buffer.from([0, 255])),
    ];
    // The SDK has no batches on AMQP.
    if (transport === 'http') await client.sendEventBatch(more);
    else for (const each of more) await client.sendEvent(each);
    await client.close();
    return true;
  },

  wrongKey: async ({ wrongKey, transport }) => {
    const client = Client.fromConnectionString(wrongKey, transports[transport]);
    return refused(client.open().then(() => client.sendEvent(new Message('x'))));
  },
};

run((context) =>
  Object.fromEntries(Object.entries(scenarios).filter(([name]) => context[name]))
);
