// Sparkplug payloads read by npm's sparkplug-payload, as sparkplug_decode.py has it with Python's.
const lines = require('readline').createInterface({ input: process.stdin });
const { decodePayload } = require('sparkplug-payload').get('spBv1.0');
const told = (value) => (value && value.constructor.name === 'Long' ? value.toString() : JSON.stringify(value));

lines.on('line', (line) => {
  const { birth, data } = JSON.parse(line);
  const said = {};
  try {
    const names = new Map(decodePayload(Buffer.from(birth, 'hex')).metrics.map((m) => [String(m.alias), m.name]));
    for (const m of decodePayload(Buffer.from(data, 'hex')).metrics) {
      said[m.name ?? names.get(String(m.alias))] = [told(m.value), m.value === null, !!m.isHistorical, Number(m.timestamp)];
    }
  } catch (error) {
    said.error = String(error);
  }
  console.log(JSON.stringify(said));
});
