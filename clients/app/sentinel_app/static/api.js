// Ask the page's own server.

// What file choosers show: systems do not count all of these as images.
export const PICTURES = "image/*,.heic,.heif,.avif,.jxl,.dng,.cr2,.cr3,.nef,.arw,.raf,.orf,.rw2,.pef,.srw";

export class Problem extends Error {
  constructor(status, found) {
    super(found.message || "The server of this page does not answer.");
    this.status = status;
    this.reason = found.reason || "";
    this.advice = found.advice || "";
    this.temporary = found.temporary || status === 0 || status === 503;
  }
}

const BUSY_TRIES = 3;

async function call(path, options) {
  for (let tries = 1; ; tries += 1) {
    let answer;
    try {
      answer = await fetch(`/api/${path}`, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, { message: "The server of this page does not answer.", advice: "Start it again with `sentinel-app`." });
    }
    if (answer.ok) return answer;
    const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
    if (problem.reason !== "BUSY" || tries === BUSY_TRIES) throw problem;
    await new Promise((done) => setTimeout(done, 400 * tries));
  }
}

export const url = (path, query) => `/api/${path}?${new URLSearchParams(query)}`;

export async function get(path, query = {}, signal) {
  return (await call(`${path}?${new URLSearchParams(query)}`, { signal })).json();
}

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-Sentinel-Page": "1" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

/** Send a file; the answer is not read yet. */
export function send(path, query, file, signal) {
  const headers = { "Content-Type": "application/octet-stream", "X-Sentinel-Page": "1" };
  return call(`${path}?${new URLSearchParams(query)}`, { method: "POST", headers, body: file, signal });
}

/** Keep an image on the server to search with; return its term. */
export async function queryImage(file) {
  const { id } = await (await send("query-image", {}, file)).json();
  return { kind: "image", value: id, weight: 1, crop: null };
}
