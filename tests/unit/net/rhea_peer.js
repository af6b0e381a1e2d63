'use strict';
// Talks to the echoing server of test_net_amqp_clients.py with rhea, the AMQP library of all Node
// SDKs; says what it saw as one line of JSON.

const rhea = require('rhea');

const { port, options, count } = JSON.parse(process.argv[2]);
const seen = { echoes: [], outcomes: [], refused: null, closed: false };

const container = rhea.create_container();
const connection = container.connect({ host: '127.0.0.1', port, reconnect: false, ...options });
connection.on('connection_open', (context) => {
  seen.server = context.connection.container_id;
  connection.open_receiver({ source: 'missing' });
});
connection.on('receiver_error', (context) => {
  const error = context.receiver.error;
  seen.refused = [error.condition, error.description];
});
connection.on('receiver_close', () => {
  connection.open_receiver({ source: 'echo', credit_window: 10 });
  connection.open_sender({ target: 'echo' });
});
let sent = 0;
connection.on('sendable', (context) => {
  while (context.sender.sendable() && sent < count) {
    context.sender.send({
      message_id: sent + 1,
      application_properties: { number: sent },
      body: rhea.message.data_section(Buffer.alloc(sent * 37, 'x')),
    });
    sent += 1;
  }
});
const finish = () => {
  if (seen.echoes.length === count && seen.outcomes.length === count) connection.close();
};
for (const outcome of ['accepted', 'released', 'rejected', 'modified']) {
  connection.on(outcome, () => {
    seen.outcomes.push(outcome);
    finish();
  });
}
connection.on('message', (context) => {
  const { message } = context;
  seen.echoes.push([message.correlation_id, message.body.content.length]);
  finish();
});
connection.on('connection_close', () => {
  seen.closed = true;
});
process.on('exit', () => {
  console.log(JSON.stringify(seen));
});
connection.on('connection_error', (context) => {
  seen.error = String(context.connection.error);
});
