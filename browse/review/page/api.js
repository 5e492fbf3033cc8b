// Requests to the server (browse/review/app.py).

const RETRY_AFTER = 1000; // milliseconds, when the server is overloaded
const RETRIES = 5;

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0 if the server does not respond
  }
}

// The JSON at an address; with a body, POSTs it.
export async function request(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new RequestError(0, "The server does not respond. Is it still running?");
    }
    if (response.status === 503 && attempt < RETRIES) {
      await new Promise((done) => setTimeout(done, RETRY_AFTER));
      continue;
    }
    const payload = await response.json().catch(() => ({ error: `The server responded with status ${response.status}.` }));
    if (!response.ok) throw new RequestError(response.status, payload.error);
    return payload;
  }
}
