// A server of modbus-serial. usage: node second.js FOLDER_OF_MODULES tcp PORT | rtu PATH, and the registers as JSON on
// standard input: { unit: { "holding": { address: word }, "input": …, "coil": … } }. What is not there is exception 2.
const [, , modules, kind, place] = process.argv;
const { ServerTCP, ServerSerial } = require(modules + "/modbus-serial");
const units = JSON.parse(require("fs").readFileSync(0, "utf8"));

function read(table, address, unit) {
  const value = units[unit]?.[table]?.[address];
  if (value === undefined) throw { modbusErrorCode: 2, message: "no such address" };
  return value;
}
function write(table, address, value, unit) {
  read(table, address, unit);
  units[unit][table][address] = value;
}
const vector = {
  getHoldingRegister: (address, unit) => read("holding", address, unit),
  getInputRegister: (address, unit) => read("input", address, unit),
  getCoil: (address, unit) => read("coil", address, unit),
  setRegister: (address, value, unit) => write("holding", address, value, unit),
  setCoil: (address, value, unit) => write("coil", address, value, unit),
};
const server = kind === "tcp"
  ? new ServerTCP(vector, { host: "127.0.0.1", port: Number(place), unitID: 255 })
  : new ServerSerial(vector, { path: place, baudRate: 19200, unitID: 255, interval: 5 });
server.on("initialized", () => console.log("ready"));
for (const event of ["socketError", "serverError", "error"]) server.on(event, (error) => console.error(event, error));
