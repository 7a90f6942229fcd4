/**
 * The server that this page came from. Addresses are relative, so that they hold behind a proxy that
 * serves it under a prefix.
 */

const KEY = "stagetree key";

/** A refusal, in the server's own words; `status` is HTTP's. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Server {
  #key = sessionStorage.getItem(KEY);

  /** Kept by this tab alone, until it is closed. */
  set key(key) {
    // What is pasted may bring along what no header can carry.
    this.#key = key.replace(/[^\x21-\x7e]/g, "");
    sessionStorage.setItem(KEY, this.#key);
  }

  get hasKey() {
    return this.#key !== null;
  }

  /** What a GET answers, as JSON; `isFine` says which refusals are answers too. */
  async ask(path, isFine = () => false) {
    const response = await fetch(path, { headers: this.#headers() });
    if (!response.ok && !isFine(response.status)) throw await refusalOf(response);
    return response.json();
  }

  /** The chunks of a streamed reply; whoever stops asking should abort the signal. */
  async *stream(path, body, signal) {
    const response = await fetch(path, {
      method: "POST",
      headers: { ...this.#headers(), "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, return_trace: true }),
      signal,
    });
    if (!response.ok) throw await refusalOf(response);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(response.status, chunk.error.message);
      yield chunk;
    }
    throw new Refusal(0, "The connection ended before the text did.");
  }

  #headers() {
    const key = this.#key === null ? {} : { Authorization: `Bearer ${this.#key}` };
    return { Accept: "application/json", ...key };
  }
}

/** The data of server-sent events; this server sends each in one line, and comments between. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  }
}

async function refusalOf(response) {
  const told = await response.json().catch(() => null);
  return new Refusal(response.status, told?.error?.message ?? `${response.status} ${response.statusText}`);
}
