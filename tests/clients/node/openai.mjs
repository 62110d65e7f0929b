// The official `openai` package for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, baseURL, capital, report, short, thrown, tooLong } from "./asked.mjs";

const client = new OpenAI({ apiKey, baseURL, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const City = z.object({ name: z.string(), people: z.number() });
const asked = [];
const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    parse: JSON.parse,
    function: ({ city }) => {
      asked.push(city);
      return `21 degrees in ${city}`;
    },
  },
};
const withTools = { model: "auto:agent", messages: user("weather?"), tools: [weather] };

await report({
  async list() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return ids;
  },
  async chat() {
    const { data, response, request_id } = await client.chat.completions
      .create({ model: "auto:capitals", messages: user(capital), ...short })
      .withResponse();
    const served = response.headers.get("x-hotswap-model");
    return { text: data.choices[0].message.content, usage: data.usage, served, request_id };
  },
  async completion() {
    const done = await client.completions.create({
      model: "auto:capitals", prompt: capital, ...short,
    });
    return done.choices[0].text;
  },
  async empty() {
    const body = { model: "auto:capitals", temperature: 0, stop: [" "] };
    const text = await client.completions.create({ ...body, prompt: capital });
    const chats = [
      { ...body, messages: user(capital) }, { model: "up", messages: user("say nothing") },
    ];
    const done = await Promise.all(chats.map((chat) => client.chat.completions.create(chat)));
    return [text.choices[0].text, ...done.map((chat) => chat.choices[0].message.content)];
  },
  async stream() {
    let text = "";
    let usage = null;
    const stream = await client.chat.completions.create({
      model: "auto:capitals", messages: user(capital), ...short,
      stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { text, usage };
  },
  async abort() {
    const stream = await client.chat.completions.create({
      model: "auto:capitals", messages: user("Count: one, two,"), max_tokens: 200, stream: true,
    });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 2) stream.controller.abort();
    return chunks;
  },
  async runTools() {
    const before = asked.length;
    const runner = client.chat.completions.runTools(withTools);
    return { text: await runner.finalContent(), asked: asked.slice(before) };
  },
  async runToolsStreamed() {
    const before = asked.length;
    const runner = client.chat.completions.runTools({ ...withTools, stream: true });
    let streamed = "";
    runner.on("content", (piece) => (streamed += piece));
    return { text: await runner.finalContent(), streamed, asked: asked.slice(before) };
  },
  async runToolsSimulated() {
    const runner = client.chat.completions.runTools({
      ...withTools, model: "auto:simulation", stream: true,
    });
    return { text: await runner.finalContent() };
  },
  async parse() {
    const done = await client.chat.completions.parse({
      model: "auto:agent", messages: user("Which city?"),
      response_format: zodResponseFormat(City, "city"),
    });
    return done.choices[0].message.parsed;
  },
  unknown: () =>
    thrown(() => client.chat.completions.create({ model: "nope", messages: user("hi") })),
  tooLong: () =>
    thrown(() => client.chat.completions.create({ model: "balanced", messages: user(tooLong) })),
  keyless: () =>
    thrown(() => new OpenAI({ apiKey: "wrong", baseURL, maxRetries: 0 }).models.list()),
  toolless: () =>
    thrown(() => client.chat.completions.create({
      ...withTools, model: "balanced", tool_choice: "required",
    })),
});
