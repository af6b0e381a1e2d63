'use strict';
// The registry and twins of azure-iothub.

const { Registry } = require('azure-iothub');
const { refused, run } = require('./harness');

const body = (result) => result.responseBody;
const open = (context) => Registry.fromConnectionString(context.connectionString);

run({
  device: async (context) => {
    const registry = open(context);
    const deviceId = context.device;
    // An authentication without keys goes out with empty strings; the hub makes the keys.
    const created = body(await registry.create({ deviceId, status: 'enabled' }));
    const conflict = await refused(registry.create({ deviceId }));
    const read = body(await registry.get(deviceId));
    const updated = body(await registry.update({ ...read, status: 'disabled' }));
    const listed = body(await registry.list()).map((device) => device.deviceId);
    await registry.delete(deviceId);
    const gone = await refused(registry.get(deviceId));
    return { created, conflict, read, updated, listed, gone };
  },

  modules: async (context) => {
    const registry = open(context);
    const deviceId = context.edge;
    const device = body(await registry.create({ deviceId, capabilities: { iotEdge: true } }));
    const module = { deviceId, moduleId: 'm1', managedBy: 'iotEdge' };
    const added = body(await registry.addModule(module));
    const read = body(await registry.getModule(deviceId, 'm1'));
    const all = body(await registry.getModulesOnDevice(deviceId)).map((each) => each.moduleId);
    const updated = body(await registry.updateModule({ ...read, managedBy: 'other' }, true));
    const twin = body(
      await registry.updateModuleTwin(deviceId, 'm1', { properties: { desired: { a: 1 } } }, '*')
    );
    await registry.removeModule(deviceId, 'm1');
    const gone = await refused(registry.getModule(deviceId, 'm1'));
    return { device, added, read, all, updated, desired: twin.properties.desired, gone };
  },

  twin: async (context) => {
    const registry = open(context);
    const deviceId = context.twin;
    await registry.create({ deviceId });
    const first = body(await registry.getTwin(deviceId));
    const patch = { tags: { site: 'north' }, properties: { desired: { rate: 5 } } };
    const second = body(await registry.updateTwin(deviceId, patch, first.etag));
    const stale = await refused(registry.updateTwin(deviceId, patch, first.etag));
    return {
      first: { version: first.version, desired: first.properties.desired },
      second: { tags: second.tags, desired: second.properties.desired },
      stale,
    };
  },

  bulk: async (context) => {
    const registry = open(context);
    const devices = context.bulk.map((deviceId) => ({
      deviceId,
      status: 'enabled',
      authentication: { type: 'sas', symmetricKey: { primaryKey: '', secondaryKey: '' } },
    }));
    const added = body(await registry.addDevices(devices));
    const disabled = devices.map((device) => ({ ...device, status: 'disabled' }));
    const updated = body(await registry.updateDevices(disabled, true));
    const read = body(await registry.get(context.bulk[0]));
    const removed = body(await registry.removeDevices(devices, true));
    return { added, updated, status: read.status, removed };
  },

  queries: async (context) => {
    const registry = open(context);
    for (const deviceId of context.queried) {
      await registry.create({ deviceId });
      await registry.updateTwin(deviceId, { tags: { site: context.site } }, '*');
    }
    const pages = [];
    const query = registry.createQuery(
      `SELECT * FROM devices WHERE tags.site = '${context.site}'`,
      2
    );
    while (query.hasMoreResults) {
      const twins = await query.nextAsTwin();
      pages.push(twins.result.map((twin) => [twin.deviceId, twin.tags.site]));
    }
    const count = registry.createQuery(
      `SELECT COUNT() AS n FROM devices WHERE tags.site = '${context.site}'`
    );
    const counted = (await count.next()).result;
    const wrong = await refused(registry.createQuery('SELECT * FROM').next());
    return { pages, counted, more: count.hasMoreResults, wrong };
  },

  statistics: async (context) => body(await open(context).getRegistryStatistics()),

  unauthorized: (context) =>
    refused(Registry.fromConnectionString(context.wrongConnectionString).get('any')),
});
