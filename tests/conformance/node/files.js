'use strict';
// Uploads with azure-iot-device: its own helper, and by hand with @azure/storage-blob.

const { Readable } = require('stream');
const { Client } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { BlockBlobClient } = require('@azure/storage-blob');
const { run } = require('./harness');

run({
  uploadToBlob: async ({ connectionString }) => {
    const client = Client.fromConnectionString(connectionString, Mqtt);
    const content = Buffer.alloc(9 * 1024 * 1024, 'n');
    await client.uploadToBlob('node/upload.bin', Readable.from([content]), content.length);
    return 'done';
  },

  byHand: async ({ connectionString }) => {
    const client = Client.fromConnectionString(connectionString, Mqtt);
    const told = await client.getBlobSharedAccessSignature('by-hand.txt');
    const url = `https://${told.hostName}/${told.containerName}/${told.blobName}${told.sasToken}`;
    const { _response } = await new BlockBlobClient(url).upload('by hand', 7);
    await client.notifyBlobUploadStatus(told.correlationId, true, _response.status, 'OK');
    return told;
  },
});
