'use strict';
// azure-iothub's Client: messages to devices, feedback, file notifications.

const { Amqp, AmqpWs, Client } = require('azure-iothub');
const { Message } = require('azure-iot-common');
const { emit, refused, run } = require('./harness');

const open = async ({ connectionString, transport }) => {
  const client = Client.fromConnectionString(
    connectionString,
    transport === 'amqp-ws' ? AmqpWs : Amqp
  );
  await client.open();
  return client;
};

const message = (chosen) => {
  const made = new Message(chosen.body);
  Object.assign(made, chosen.fields);
  for (const [key, value] of Object.entries(chosen.properties || {})) {
    made.properties.add(key, value);
  }
  return made;
};

// What `count` messages of a receiver hold, each settled as `settle` says in turn.
const received = (receiver, chosen, settle, wanted) =>
  new Promise((resolve, reject) => {
    const seen = [];
    receiver.on('errorReceived', reject);
    receiver.on('message', async (found) => {
      try {
        const way = settle[Math.min(seen.length, settle.length - 1)];
        const body = JSON.parse(found.data.toString());
        const mine = wanted(body, chosen);
        if (mine) seen.push({ body, contentType: found.contentType });
        await receiver[mine ? way : 'complete'](found);
        if (seen.length === settle.length) resolve(seen);
      } catch (error) {
        reject(error);
      }
    });
  });

run((context) =>
  Object.fromEntries(
    Object.entries({
      send: async (chosen) => {
        const client = await open(chosen);
        const results = [];
        for (const each of chosen.messages) {
          const { result } = await client.send(each.device, message(each));
          results.push(result.constructor.name);
        }
        await client.close();
        return results;
      },
      refusals: async (chosen) => {
        const client = await open(chosen);
        const results = [];
        for (const each of chosen.messages) {
          results.push(await refused(client.send(each.device, message(each))));
        }
        await client.close();
        return results;
      },
      feedback: async (chosen) => {
        const client = await open(chosen);
        const { result: receiver } = await client.getFeedbackReceiver();
        emit({ ready: true });
        const seen = await received(receiver, chosen, ['abandon', 'complete'], (body, { device }) =>
          body.some((record) => record.deviceId === device)
        );
        await client.close();
        return seen;
      },
      files: async (chosen) => {
        const client = await open(chosen);
        const { result: receiver } = await client.getFileNotificationReceiver();
        emit({ ready: true });
        const seen = await received(
          receiver,
          chosen,
          ['complete'],
          (body, { device }) => body.deviceId === device
        );
        await client.close();
        return seen;
      },
    })
      .filter(([name]) => context[name])
      .map(([name, scenario]) => [name, () => scenario(context[name])])
  )
);
