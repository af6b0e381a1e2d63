'use strict';
// Runs the scenarios of one script at the same time and reports each as a JSON line on stdout.
// What a scenario needs to know comes as one JSON object on stdin.

const fs = require('fs');

const emit = (line) => fs.writeSync(1, JSON.stringify(line) + '\n');

const describe = (error) => ({
  name: error.name,
  message: String(error.message),
  condition: error.condition,
  statusCode: error.response ? error.response.statusCode : undefined,
  result: error.result,
});

async function run(scenarios) {
  const context = JSON.parse(fs.readFileSync(0, 'utf8'));
  const chosen = typeof scenarios === 'function' ? scenarios(context) : scenarios;
  await Promise.all(
    Object.entries(chosen).map(async ([name, scenario]) => {
      const start = process.hrtime.bigint();
      let outcome;
      try {
        outcome = { value: await scenario(context) };
      } catch (error) {
        outcome = { error: describe(error) };
      }
      const seconds = Number(process.hrtime.bigint() - start) / 1e9;
      emit({ scenario: name, seconds, ...outcome });
    })
  );
  process.exit(0);
}

// What a call throws, described; an error of its own when it does not throw.
async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return describe(error);
  }
  throw new Error('this should have been refused');
}

module.exports = { emit, refused, run };
