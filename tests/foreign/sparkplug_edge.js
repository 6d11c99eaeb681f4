// An edge node made of npm's sparkplug-client, which nobody here wrote: `js` with a device `d` in group `acme`. A count goes up ten
// times a second; births when they are asked for; what is written to `wish` comes back.
// usage: sparkplug_edge.js PORT
const sparkplug = require('sparkplug-client');
const client = sparkplug.newClient({
  serverUrl: `tcp://127.0.0.1:${process.argv[2]}`,
  username: 'js',
  password: 'none',
  groupId: 'acme',
  edgeNode: 'js',
  clientId: 'sparkplug-edge-js',
  publishDeath: true,
  version: 'spBv1.0',
});
let count = 0;
let wish = -5;
const metrics = () => [
  { name: 'count', type: 'Int32', value: count },
  { name: 'wish', type: 'Int32', value: wish },
  { name: 'text', type: 'String', value: 'Größe' },
];
const birth = () => {
  const timestamp = Date.now();
  client.publishNodeBirth({ timestamp, metrics: [{ name: 'Node Control/Rebirth', type: 'Boolean', value: false }] });
  client.publishDeviceBirth('d', { timestamp, metrics: metrics() });
};
client.on('birth', birth);
client.on('error', (error) => console.log(String(error)));
client.on('ncmd', (payload) => payload.metrics.some((m) => m.name === 'Node Control/Rebirth' && m.value) && birth());
client.on('dcmd', (device, payload) => {
  wish = Number(payload.metrics.find((m) => m.name === 'wish')?.value ?? wish);
});
setInterval(() => {
  count += 1;
  const timestamp = Date.now();
  client.publishDeviceData('d', { timestamp, metrics: metrics().map((m) => ({ ...m, timestamp })) });
}, 100);
process.stdin.resume();
process.stdin.on('end', () => {
  client.stop();
  setTimeout(() => process.exit(0), 300);
});
