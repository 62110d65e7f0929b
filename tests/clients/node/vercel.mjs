// The Vercel AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { apiKey, baseURL, capital, report, thrown, tooLong } from "./asked.mjs";

const provider = (key) =>
  createOpenAICompatible({
    name: "hotswap", apiKey: key, baseURL, includeUsage: true, supportsStructuredOutputs: true,
  });
const hotswap = provider(apiKey);
const capitals = hotswap("auto:capitals");
const short = { maxOutputTokens: 8, temperature: 0, stopSequences: ["\n"], maxRetries: 0 };
const City = z.object({ name: z.string(), people: z.number() });

/** A loop of calls that ends when the model has its result. */
function loop(model) {
  const asked = [];
  const weather = tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return `21 degrees in ${city}`;
    },
  });
  const options = {
    model: hotswap(model), prompt: "weather?", tools: { weather }, stopWhen: stepCountIs(5),
    maxRetries: 0,
  };
  return { asked, options };
}

async function streamedLoop(model) {
  const { asked, options } = loop(model);
  const result = streamText(options);
  let streamed = "";
  for await (const piece of result.textStream) streamed += piece;
  return { text: streamed, steps: (await result.steps).length, asked };
}

await report({
  async generateText() {
    const done = await generateText({ model: capitals, prompt: capital, ...short });
    const served = done.response.headers["x-hotswap-model"];
    return { text: done.text, usage: done.usage, finish: done.finishReason, served };
  },
  async completion() {
    const model = hotswap.completionModel("auto:capitals");
    return (await generateText({ model, prompt: capital, ...short })).text;
  },
  async streamText() {
    const result = streamText({ model: capitals, prompt: capital, ...short });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    return { text, usage: await result.usage, finish: await result.finishReason };
  },
  async empty() {
    return (await generateText({ model: hotswap("up"), prompt: "say nothing" })).text;
  },
  async loop() {
    const { asked, options } = loop("auto:agent");
    const done = await generateText(options);
    return { text: done.text, steps: done.steps.length, asked };
  },
  loopStreamed: () => streamedLoop("auto:agent"),
  loopSimulated: () => streamedLoop("auto:simulation"),
  async generateObject() {
    const model = hotswap("auto:agent");
    return (await generateObject({ model, schema: City, prompt: "Which city?" })).object;
  },
  async generateObjectGemma() {
    const schema = z.object({ answer: z.enum(["yes", "no"]) });
    return (await generateObject({ model: capitals, schema, prompt: "Is water wet?" })).object;
  },
  async streamObject() {
    const model = hotswap("auto:agent");
    const result = streamObject({ model, schema: City, prompt: "Which city?" });
    let parts = 0;
    for await (const _ of result.partialObjectStream) parts += 1;
    return { object: await result.object, parts };
  },
  unknown: () =>
    thrown(() => generateText({ model: hotswap("nope"), prompt: "hi", maxRetries: 0 })),
  tooLong: () =>
    thrown(() => generateText({ model: hotswap("balanced"), prompt: tooLong, maxRetries: 0 })),
  keyless: () =>
    thrown(() => generateText({ model: provider("wrong")("auto"), prompt: "hi", maxRetries: 0 })),
});
