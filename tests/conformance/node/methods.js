'use strict';
// Direct methods called with azure-iothub.

const { Client } = require('azure-iothub');
const { refused, run } = require('./harness');

async function call(client, ...target) {
  const invoke = async (params) => (await client.invokeDeviceMethod(...target, params)).result;
  const timeouts = { responseTimeoutInSeconds: 15, connectTimeoutInSeconds: 15 };
  const answer = await invoke({ methodName: 'setRate', payload: { rate: 5 }, ...timeouts });
  const empty = await invoke({ methodName: 'nothing', payload: null, ...timeouts });
  return { answer, empty };
}

const open = (context) => Client.fromConnectionString(context.connectionString);

run({
  device: (context) => call(open(context), context.device),
  module: (context) => call(open(context), ...context.module),
  gone: async (context) => {
    const client = open(context);
    const offline = await refused(
      client.invokeDeviceMethod(context.nobody, { methodName: 'm', payload: null })
    );
    // The client gives up exactly at the end of both time-outs; the hub is a little earlier.
    const params = { methodName: 'silent', payload: null, responseTimeoutInSeconds: 5 };
    const silent = await refused(client.invokeDeviceMethod(context.device, params));
    for (const target of [[context.device], context.module]) {
      const last = { methodName: 'last', payload: null, connectTimeoutInSeconds: 5 };
      await client.invokeDeviceMethod(...target, last);
    }
    return { offline, silent };
  },
});
