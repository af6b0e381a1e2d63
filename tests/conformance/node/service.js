'use strict';
// Every operation of azure-iot-provisioning-service.

const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { refused, run } = require('./harness');

const attestation = { type: 'symmetricKey', symmetricKey: {} };
const body = (result) => result.responseBody;

const bulk = (client, operation) =>
  // Without a callback this one never settles its promise (azure-iot-provisioning-service 1.11.2).
  new Promise((resolve, reject) => {
    client.runBulkEnrollmentOperation(operation, (error, result) =>
      error ? reject(error) : resolve(result)
    );
  });

async function pages(query) {
  const all = [];
  let count = 0;
  while (query.hasMoreResults) {
    // Called for a promise, it goes on only from a token that it is given (1.11.2).
    all.push(...body(await query.next(query.continuationToken)));
    count += 1;
  }
  return { all, count };
}

const open = (context) => ProvisioningServiceClient.fromConnectionString(context.connectionString);

run({
  individual: async (context) => {
    const client = open(context);
    const id = context.individual;
    const enrollment = {
      registrationId: id,
      deviceId: 'node-device',
      attestation,
      capabilities: { iotEdge: true },
      initialTwin: { tags: { t: 1 }, properties: { desired: { d: [1, 2] } } },
    };
    const created = body(await client.createOrUpdateIndividualEnrollment(enrollment));
    const read = body(await client.getIndividualEnrollment(id));
    const conflict = await refused(client.createOrUpdateIndividualEnrollment(enrollment));
    const shown = body(await client.getIndividualEnrollmentAttestationMechanism(id));
    const updated = body(
      await client.createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'disabled' })
    );
    const stale = await refused(client.createOrUpdateIndividualEnrollment(read));
    const staleDelete = await refused(client.deleteIndividualEnrollment(read));
    await client.deleteIndividualEnrollment(updated);
    const gone = await refused(client.getIndividualEnrollment(id));
    return { created, read, conflict, shown, updated, stale, staleDelete, gone };
  },

  group: async (context) => {
    const client = open(context);
    const id = context.group;
    const group = { enrollmentGroupId: id, attestation };
    const created = body(await client.createOrUpdateEnrollmentGroup(group));
    const read = body(await client.getEnrollmentGroup(id));
    const shown = body(await client.getEnrollmentGroupAttestationMechanism(id));
    const conflict = await refused(client.createOrUpdateEnrollmentGroup(group));
    await client.deleteEnrollmentGroup(id);
    const gone = await refused(client.getEnrollmentGroup(id));
    return { created, read, shown, conflict, gone };
  },

  bulk: async (context) => {
    const client = open(context);
    const enrollments = context.bulk.map((registrationId) => ({ registrationId, attestation }));
    const created = await bulk(client, { mode: 'create', enrollments });
    const again = await bulk(client, { mode: 'create', enrollments });
    const deleted = await bulk(client, { mode: 'delete', enrollments });
    return { created, again, deleted };
  },

  queries: async (context) => {
    const client = open(context);
    const everything = { query: 'SELECT *' };
    const individuals = await pages(client.createIndividualEnrollmentQuery(everything, 7));
    const groups = await pages(client.createEnrollmentGroupQuery(everything, 7));
    return {
      individuals: individuals.all.map((item) => item.registrationId),
      groups: groups.all.map((item) => item.enrollmentGroupId),
    };
  },

  states: async (context) => {
    const client = open(context);
    const { group, registrationId } = context.states;
    const listed = await pages(
      client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'SELECT *' }, group, 1)
    );
    const read = body(await client.getDeviceRegistrationState(registrationId));
    await client.deleteDeviceRegistrationState(read);
    const gone = await refused(client.getDeviceRegistrationState(registrationId));
    return { listed, read, gone };
  },

  unauthorized: (context) => {
    const client = ProvisioningServiceClient.fromConnectionString(context.wrongConnectionString);
    return refused(client.getIndividualEnrollment('any'));
  },
});
