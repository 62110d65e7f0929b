// What both Node clients ask, and how their scripts answer pytest: one JSON object on stdout.

export const baseURL = process.env.BASE_URL;
export const apiKey = process.env.API_KEY;
export const capital = `Country: Japan
Capital: Tokyo
Country: Kenya
Capital: Nairobi
Country: Norway
Capital: Oslo
Country: Peru
Capital: Lima
Country: Egypt
Capital:`;
export const short = { max_tokens: 8, temperature: 0, stop: ["\n"] };
export const tooLong = "word ".repeat(4000);

/** Run each part in turn; what one throws is its result, so that pytest sees all of them. */
export async function report(parts) {
  const results = {};
  for (const [name, part] of Object.entries(parts)) {
    try {
      results[name] = await part();
    } catch (error) {
      results[name] = { threw: error.name, message: error.message, status: error.status };
    }
  }
  console.log(JSON.stringify(results));
}

/** What a call throws: the name of its class and what it says of itself. */
export async function thrown(call) {
  try {
    await call();
  } catch (error) {
    const status = error.status ?? error.statusCode;
    const code = error.code ?? error.data?.error?.code;
    return { name: error.name, kind: error.constructor.name, status, code, message: error.message };
  }
  return null;
}
