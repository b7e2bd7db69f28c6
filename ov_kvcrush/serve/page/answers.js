// Answers of /v1/chat/completions as they come: server-sent events, read from a stream of bytes.

import { askForKey, headers } from "./key.js";

export async function* answerTo(model, messages, session, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const body = { model, messages, ...options };
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Session-Id": session, ...headers() },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) {
    if (response.status === 401) askForKey();
    throw new Error(await errorIn(response));
  }
  // Read to its end, which follows [DONE]: a body that is let go before counts as broken off.
  for await (const line of lines(response.body)) {
    const data = line.startsWith("data:") ? line.slice(5).trim() : "";
    if (data && data !== "[DONE]") yield JSON.parse(data);
  }
}

async function errorIn(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const whole = rest.split("\n");
      rest = whole.pop();
      yield* whole.map((line) => line.replace(/\r$/, ""));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
