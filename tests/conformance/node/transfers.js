'use strict';
// Exports and imports of identities with azure-iothub's Registry.

const { Registry } = require('azure-iothub');
const { refused, run } = require('./harness');

// Some of these calls wrap what they answer, some do not.
const body = (result) => result.responseBody || result;

async function ended(registry, created) {
  for (;;) {
    const job = body(await registry.getJob(created.jobId));
    if (['completed', 'failed', 'cancelled'].includes(job.status)) return job;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

run({
  transfers: async ({ connectionString, containerUri }) => {
    const registry = Registry.fromConnectionString(connectionString);
    const exporting = body(await registry.exportDevicesToBlob(containerUri, false));
    const exported = await ended(registry, exporting);
    const importing = body(await registry.importDevicesFromBlob(containerUri, containerUri));
    const imported = await ended(registry, importing);
    const listed = body(await registry.listJobs()).map((job) => job.jobId);
    const ours = [exported.jobId, imported.jobId].every((id) => listed.includes(id));
    const wrong = await refused(registry.exportDevicesToBlob('https://a.example/b?c', false));
    const gone = await refused(registry.cancelJob('no-such-job'));
    return { exported, imported, ours, wrong, gone };
  },
});
