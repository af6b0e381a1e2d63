'use strict';
// Jobs with azure-iothub: JobClient, and what became of devices with Registry's query.

const { JobClient, Registry } = require('azure-iothub');
const { refused, run } = require('./harness');

const over = ['completed', 'failed', 'cancelled'];

async function ended(client, jobId) {
  for (;;) {
    const { jobStatus } = await client.getJob(jobId);
    if (over.includes(jobStatus.status)) return jobStatus;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const later = new Date(Date.UTC(2099, 0, 1));

const scenarios = {
  twin: async ({ connectionString, condition, name }) => {
    const client = JobClient.fromConnectionString(connectionString);
    const patch = { etag: '*', tags: { node: true } };
    await client.scheduleTwinUpdate(`${name}-1`, condition, patch, new Date(), 60);
    return ended(client, `${name}-1`);
  },

  method: async ({ connectionString, condition, name }) => {
    const client = JobClient.fromConnectionString(connectionString);
    const call = { methodName: 'setRate', payload: 'fast', responseTimeoutInSeconds: 15 };
    await client.scheduleDeviceMethod(`${name}-2`, condition, call, new Date(), 60);
    const job = await ended(client, `${name}-2`);
    const text = `SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '${name}-2'`;
    const query = Registry.fromConnectionString(connectionString).createQuery(text, 1);
    const devices = [];
    while (query.hasMoreResults) devices.push(...(await query.next(query.continuationToken)).result);
    return { job, devices };
  },

  cancel: async ({ connectionString, condition, name }) => {
    const client = JobClient.fromConnectionString(connectionString);
    const schedule = () =>
      client.scheduleTwinUpdate(`${name}-later`, condition, { tags: { a: 1 } }, later, 60);
    await schedule();
    const conflict = await refused(schedule());
    const { jobStatus } = await client.cancelJob(`${name}-later`);
    const query = client.createQuery('scheduleUpdateTwin', 'cancelled', 1);
    const listed = [];
    while (query.hasMoreResults) listed.push(...(await query.next(query.continuationToken)).result.map((j) => j.jobId));
    const gone = await refused(client.getJob('no-such-job'));
    return { cancelled: jobStatus.status, conflict, listed, gone };
  },
};

run(scenarios);
