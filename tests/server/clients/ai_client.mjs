// The `ai` SDK over its provider for compatible servers: chats and completions, as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [url, prompt] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "stagetree", baseURL: url, apiKey: "none" });
const asked = { prompt, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

async function streamed(model) {
  let text = "";
  const stream = streamText({ ...asked, model, onError: ({ error }) => { throw error; } });
  for await (const part of stream.textStream) text += part;
  return text;
}

const chat = provider("tiny");
const reply = await generateText({ ...asked, model: chat });
console.log(JSON.stringify({
  chat: reply.text,
  usage: reply.usage.outputTokens,
  finish: reply.finishReason,
  said: await streamed(chat),
  whole: (await generateText({ ...asked, model: provider.completionModel("tiny") })).text,
  streamed: await streamed(provider.completionModel("tiny")),
}));
