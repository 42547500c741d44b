// Drives a gateway with npm `@modelcontextprotocol/sdk`. Same job and same report as `py1.py`.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

async function every(method, field) {
  const found = [];
  let cursor;
  do {
    const page = await method(cursor === undefined ? {} : { cursor });
    found.push(...page[field]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return found;
}

async function step(client, wanted) {
  const progress = [];
  const onprogress = ({ progress: done, total, message }) => progress.push([done, total ?? null, message ?? null]);
  let result;
  if (wanted.call !== undefined) {
    const params = { name: wanted.call, arguments: wanted.arguments ?? {} };
    if (wanted.meta) params._meta = wanted.meta;
    result = await client.callTool(params, undefined, wanted.progress ? { onprogress } : {});
  } else if (wanted.read !== undefined) {
    result = await client.readResource({ uri: wanted.read });
  } else {
    result = await client.getPrompt({ name: wanted.prompt, arguments: wanted.arguments ?? {} });
  }
  return { result, progress };
}

async function round(job) {
  const headers = { Authorization: `Bearer ${job.token}` };
  const transport = new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers } });
  const client = new Client({ name: "forkgate-tests", version: "1" });
  await client.connect(transport);
  const names = async (method, field, name) => (await every(method, field)).map((entry) => entry[name]).sort();
  const seen = {
    protocol: transport.protocolVersion,
    instructions: client.getInstructions() ?? null,
    session: transport.sessionId !== undefined,
    tools: await names((p) => client.listTools(p), "tools", "name"),
    resources: await names((p) => client.listResources(p), "resources", "uri"),
    templates: await names((p) => client.listResourceTemplates(p), "resourceTemplates", "uriTemplate"),
    prompts: await names((p) => client.listPrompts(p), "prompts", "name"),
    steps: [],
  };
  await client.ping();
  seen.ping = true;
  for (const wanted of job.steps) seen.steps.push(await step(client, wanted));
  await transport.terminateSession();
  await client.close();
  return seen;
}

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const job = JSON.parse(Buffer.concat(chunks).toString());
const report = [];
for (let n = 0; n < job.rounds; n += 1) report.push(await round(job));
console.log(JSON.stringify(report));
