// MQTT.js against the gateway. usage: node crowd.js FOLDER_OF_MODULES URL round 4|5      every QoS, retained, a will
//                                     node crowd.js FOLDER_OF_MODULES URL explore N SECONDS
// `explore` does what MQTT Explorer does (it is built on MQTT.js): # and $SYS/# in one go, everything kept. Prints JSON.
const [, , modules, url, what, ...rest] = process.argv;
const mqtt = require(modules + "/mqtt");
const say = (result) => { console.log(JSON.stringify(result)); process.exit(0); };
const fail = (error) => say({ error: String(error) });
setTimeout(() => fail("too late"), 60000);

async function round(version) {
  const options = { protocolVersion: Number(version), clientId: `js/${version}+#`, reconnectPeriod: 0, connectTimeout: 10000 };
  const will = { topic: "js/will", payload: "gone", qos: 1 };
  const dying = await mqtt.connectAsync(url, { ...options, clientId: "dying", will });
  const client = await mqtt.connectAsync(url, options);
  const seen = [];
  client.on("message", (topic, payload, packet) => seen.push([topic, payload.toString(), packet.qos, packet.retain]));
  await client.publishAsync("js/kept", "still here", { qos: 1, retain: true });
  const granted = await client.subscribeAsync(["js/#"], { qos: 2 });
  for (const qos of [0, 1, 2]) await client.publishAsync(`js/é/${qos}`, "x".repeat(10 ** (qos * 2)), { qos });
  dying.stream.destroy();
  const until = Date.now() + 10000;
  while (seen.length < 5 && Date.now() < until) await new Promise((done) => setTimeout(done, 20));
  await client.unsubscribeAsync("js/#");
  await client.publishAsync("js/kept", "", { qos: 1, retain: true });
  await client.endAsync();
  say({ granted: granted.map((one) => one.qos), seen: seen.map(([topic, payload, ...more]) => [topic, payload.length, ...more]).sort() });
}

async function explore(wanted, seconds) {
  const client = await mqtt.connectAsync(url, { clientId: "mqtt-explorer-1", reconnectPeriod: 0, keepalive: 60 });
  const begun = Date.now();
  const [tags, sys] = [new Set(), new Set()];
  let [messages, complete, closed] = [0, null, false];
  client.on("close", () => { closed = true; });
  client.on("message", (topic) => {
    messages++;
    (topic.startsWith("$SYS") ? sys : tags).add(topic);
    if (tags.size >= wanted && complete === null) complete = Date.now() - begun;
  });
  await client.subscribeAsync({ "#": { qos: 0 }, "$SYS/#": { qos: 0 } });
  setTimeout(() => say({ tags: tags.size, sys: sys.size, messages, complete, closed }), seconds * 1000);
}

(what === "round" ? round(...rest) : explore(...rest.map(Number))).catch(fail);
