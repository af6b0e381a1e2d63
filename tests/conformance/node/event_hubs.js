'use strict';
// Reads a hub's events with @azure/event-hubs.

const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');
const webSocket = require('ws');
const { refused, run } = require('./harness');

const options = ({ websocket }) =>
  websocket ? { webSocketOptions: { webSocket } } : {};

const open = (chosen, connectionString = chosen.connectionString) =>
  new EventHubConsumerClient('$Default', connectionString, {
    retryOptions: { maxRetries: 0 },
    ...options(chosen),
  });

const shown = (event) => ({
  body: event.body,
  offset: event.offset,
  sequenceNumber: event.sequenceNumber,
  enqueuedTime: event.enqueuedTimeUtc.toISOString(),
  properties: event.properties,
  systemProperties: event.systemProperties,
  contentType: event.contentType,
  correlationId: event.correlationId,
  messageId: event.messageId,
});

// The first `count` events of a device, read from a position on.
const read = (client, chosen, startPosition, partition, more = {}) =>
  new Promise((resolve, reject) => {
    const seen = [];
    const subscription = client.subscribe(
      ...(partition === undefined ? [] : [partition]),
      {
        processEvents: async (events, context) => {
          for (const event of events) {
            if (event.systemProperties['iothub-connection-device-id'] !== chosen.device) continue;
            seen.push({
              ...shown(event),
              partition: context.partitionId,
              last: context.lastEnqueuedEventProperties,
            });
          }
          if (seen.length >= chosen.count) {
            await subscription.close();
            resolve(seen);
          }
        },
        processError: async (error) => reject(error),
      },
      { startPosition, maxWaitTimeInSeconds: 1, ...more }
    );
  });

run({
  describe: async ({ describe: chosen }) => {
    const client = open(chosen);
    const hub = await client.getEventHubProperties();
    const partition = await client.getPartitionProperties(hub.partitionIds[0]);
    await client.close();
    return { hub, partition };
  },

  read: async ({ read: chosen }) => {
    const client = open(chosen);
    const seen = await read(client, chosen, earliestEventPosition, undefined, {
      trackLastEnqueuedEventProperties: true,
    });
    const { offset, partition, sequenceNumber } = seen[0];
    const after = { ...chosen, count: chosen.count - 1 };
    const byOffset = await read(client, after, { offset }, partition);
    const byNumber = await read(client, chosen, { sequenceNumber, isInclusive: true }, partition);
    await client.close();
    return { seen, byOffset, byNumber };
  },

  wrongKey: async ({ wrongKey: chosen }) => {
    const client = open(chosen);
    const error = await refused(client.getEventHubProperties());
    await client.close();
    return error;
  },
});
