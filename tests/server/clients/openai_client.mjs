// openai-node, unmodified: what it makes of our replies, as JSON.
import OpenAI from "openai";

const [url, prompt] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const model = "tiny";
const asked = { model, temperature: 0, max_tokens: 24 };
const messages = [{ role: "user", content: prompt }];

const told = { models: [], streamed: "", said: "", chunks: 0 };
for await (const each of client.models.list()) told.models.push(each.id);
told.whole = (await client.completions.create({ ...asked, prompt })).choices[0].text;
const stream = await client.completions.create({ ...asked, prompt, stream: true });
for await (const chunk of stream) told.streamed += chunk.choices[0]?.text ?? "";

const reply = await client.chat.completions.create({ ...asked, messages });
told.chat = reply.choices[0].message.content;
told.usage = reply.usage.total_tokens;
const runner = client.chat.completions.stream({
  ...asked, messages, stream_options: { include_usage: true },
});
for await (const chunk of runner) told.said += chunk.choices[0]?.delta?.content ?? "";
told.final = (await runner.finalChatCompletion()).choices[0].message.content;
told.finalUsage = (await runner.totalUsage()).total_tokens;
try {
  await client.completions.create({ ...asked, prompt, temperature: -1 });
} catch (error) {
  told.refused = [error.status, error.param, error.constructor.name];
}
console.log(JSON.stringify(told));
