'use strict';
// A device and a module in a hub with azure-iot-device over each of its transports.

const {
  Client,
  Message,
  ModuleClient,
  SharedAccessKeyAuthenticationProvider,
} = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { emit, refused, run } = require('./harness');

const transports = { amqp: Amqp, 'amqp-ws': AmqpWs, mqtt: Mqtt, 'mqtt-ws': MqttWs };

const update = (twin, patch) =>
  new Promise((resolve, reject) => {
    twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve()));
  });

function message(body, properties) {
  const made = new Message(body);
  made.messageId = 'id 1';
  made.correlationId = 'c/1';
  made.contentType = 'application/json';
  made.contentEncoding = 'utf-8';
  for (const [key, value] of Object.entries(properties)) made.properties.add(key, value);
  return made;
}

async function talk(client, send) {
  await client.open();
  await send();
  const twin = await client.getTwin();
  const seen = [];
  const done = new Promise((resolve) => {
    twin.on('properties.desired', (delta) => {
      seen.push(delta);
      if (delta.last) resolve();
    });
  });
  const before = JSON.parse(JSON.stringify(twin.properties));
  await update(twin, { battery: 80, gone: 'soon' });
  await update(twin, { gone: null });
  // Whoever started this script now changes the desired properties.
  emit({ ready: true });
  await done;
  await client.close();
  return { before, seen };
}

const scenarios = {
  device: (context) => {
    const { connectionString, transport } = context.device;
    const client = Client.fromConnectionString(connectionString, transports[transport]);
    return talk(client, () =>
      client.sendEvent(message('{"t":21.5}', { 'al ert': 'tr/ue&x=1' }))
    );
  },

  module: (context) => {
    const { connectionString, transport } = context.module;
    const client = ModuleClient.fromConnectionString(connectionString, transports[transport]);
    return talk(client, () =>
      client.sendOutputEvent('out1', message('{"n":1}', { 'dt-subject': 'comp1' }))
    );
  },

  wrongKey: (context) => {
    const { connectionString, transport } = context.wrongKey;
    const client = Client.fromConnectionString(connectionString, transports[transport]);
    return refused(client.open());
  },

  // Lives longer than its token, and than its next one.
  renew: async (context) => {
    const { connectionString, transport } = context.renew;
    const authentication = SharedAccessKeyAuthenticationProvider.fromConnectionString(
      connectionString,
      300,
      299
    );
    const client = Client.fromAuthenticationProvider(authentication, transports[transport]);
    await client.open();
    await client.sendEvent(new Message('first'));
    await new Promise((resolve) => {
      let renewals = 0;
      authentication.on('newTokenAvailable', () => {
        renewals += 1;
        if (renewals === 2) resolve();
      });
    });
    await client.sendEvent(new Message('last'));
    await client.close();
    return true;
  },

  // Keeps listening while whoever started this script breaks the connection.
  survive: async (context) => {
    const { connectionString, transport } = context.survive;
    const client = Client.fromConnectionString(connectionString, transports[transport]);
    await client.open();
    const twin = await client.getTwin();
    const done = new Promise((resolve) => {
      twin.on('properties.desired', (delta) => {
        emit({ desired: delta });
        if (delta.last) resolve();
      });
    });
    await update(twin, { listening: true });
    emit({ ready: true });
    await done;
    await client.sendEvent(new Message('still here'));
    await client.close();
    return true;
  },
};

run((context) =>
  Object.fromEntries(Object.entries(scenarios).filter(([name]) => context[name]))
);
