// kafkajs as docs/events.md shows it. `read GROUP COUNT TOPIC…` prints decoded records as JSON lines;
// `write TOPIC EVENT KEY DATA` produces one event. BOOTSTRAP and REGISTRY are in the environment.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const { SchemaRegistry } = require("@kafkajs/confluent-schema-registry");

if (!process.env.WITHOUT_ZSTD) {
  const { decompress } = require("fzstd");
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    decompress: async (buffer) => Buffer.from(decompress(buffer)),
    compress: async () => { throw new Error("fzstd only decompresses"); },
  });
}

const kafka = new Kafka({ brokers: process.env.BOOTSTRAP.split(","), logLevel: logLevel.NOTHING });
const registry = new SchemaRegistry({ host: process.env.REGISTRY });
const plain = (value) =>
  typeof value === "bigint" ? Number(value) : Buffer.isBuffer(value) ? value.toString("base64") : value;

async function read(groupId, count, topics) {
  const consumer = kafka.consumer({ groupId, readUncommitted: false });
  const failed = new Promise((_, reject) => consumer.on(consumer.events.CRASH, (e) => reject(e.payload.error)));
  await consumer.connect();
  await consumer.subscribe({ topics, fromBeginning: true });
  let left = Number(count);
  const done = new Promise((resolve) =>
    consumer.run({
      autoCommitThreshold: 1,
      eachMessage: async ({ topic, partition, message }) => {
        if (left-- <= 0) return;
        const headers = Object.fromEntries(Object.entries(message.headers).map(([k, v]) => [k, v.toString()]));
        const value = await registry.decode(message.value);
        const key = message.key && message.key.toString();
        console.log(JSON.stringify({ topic, partition, offset: Number(message.offset), key, headers, value },
          (_, v) => plain(v)));
        if (left === 0) resolve();
      },
    }));
  await Promise.race([done, failed]);
  await consumer.disconnect();
}

async function write(topic, event, key, data) {
  const id = await registry.getLatestSchemaId(`headwater.${event}`);
  const producer = kafka.producer();
  await producer.connect();
  const value = await registry.encode(id, JSON.parse(data));
  const [sent] = await producer.send({
    topic, messages: [{ key, value, headers: { ce_id: `js-${Date.now()}`, ce_source: "kafkajs", ce_type: event } }],
  });
  console.log(JSON.stringify(sent));
  await producer.disconnect();
}

const [what, ...args] = process.argv.slice(2);
(what === "read" ? read(args[0], args[1], args.slice(2)) : write(...args)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
