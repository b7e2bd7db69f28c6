// Shows what the server holds and does, asked each second, and has one chat with it.
// Texts go into the page as text only, so nothing that a model writes is ever taken for markup.

const EVERY_MS = 1000;
const PATIENCE_MS = 10000;
const KEY = "ov-kvcrush-key";
const OWNERS = ["running", "waiting", "chats", "prefixes"];
const CONDITIONS = {
  ready: "Ready",
  loading: "Loading the model",
  draining: "Shutting down",
  failed: "The engine failed; the server's log says why",
};

const $ = (id) => document.getElementById(id);

// ------------------------------------------------------------------ figures as text

const count = (number) => (number == null ? "–" : number.toLocaleString("en"));

function megabytes(bytes) {
  const mb = bytes / 1e6;
  const digits = mb < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 };
  return `${mb.toLocaleString("en", digits)} MB`;
}

function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return age(seconds);
}

function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const mean = ({ sum, count }) => (count ? duration(sum / count) : "–");

function setText(element, text) {
  // An unchanged text is left alone: it may be selected, or be read out when it changes.
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// ------------------------------------------------------------------ the key

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function askForKey() {
  const given = sessionStorage.getItem(KEY) !== null;
  setText($("key-note"), given ? "The server does not know this key." : "Kept in this tab until it is closed.");
  $("key-form").hidden = false;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  look();
});

$("forget-key").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  look();
});

// ------------------------------------------------------------------ what the server holds and does

let model = "";
let looking = false;
let timer = 0;

async function look() {
  clearTimeout(timer);
  if (looking) return;
  looking = true;
  const sent = headers();
  let again = EVERY_MS;
  try {
    const options = { headers: sent, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
    const response = await fetch("stats", options);
    if (response.status === 401) {
      if (sent.Authorization === headers().Authorization) {
        again = null; // until there is another key
        askForKey();
        showCondition("An API key is needed", true);
      } else again = 0;
      return;
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    const stats = await response.json();
    $("key-form").hidden = true;
    $("forget-key").hidden = sessionStorage.getItem(KEY) === null;
    show(stats);
  } catch {
    showCondition("The server does not answer", true);
  } finally {
    looking = false;
    if (again !== null && !document.hidden) timer = setTimeout(look, again);
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});

function showCondition(text, isWrong, isKnown = !isWrong) {
  const element = $("condition");
  setText(element, text);
  element.className = isWrong ? "wrong" : "ready";
  $("figures").classList.toggle("stale", !isKnown);
}

function show(stats) {
  model = stats.model;
  setText($("model"), model);
  document.title = `${model} – ov-kvcrush`;
  showCondition(CONDITIONS[stats.condition] ?? stats.condition, stats.condition === "failed", true);
  setText($("uptime"), `up ${age(stats.uptime_seconds)}`);
  if (stats.engine) {
    showPool(stats.engine.kv_cache);
    showSums(stats.engine, stats.sessions);
  }
  showOpen(stats);
  showLast(stats.last);
}

function showPool(cache) {
  const held = OWNERS.map((owner) => cache[`${owner}_bytes`]);
  const total = held.reduce((sum, bytes) => sum + (bytes ?? 0), 0);
  const used = cache.used_bytes;
  const whole = Math.max(cache.pool_bytes, used, 1);
  const scale = total > used ? used / total : 1;
  OWNERS.forEach((owner, place) => {
    const bytes = held[place] ?? 0;
    document.querySelector(`#pool-bar .${owner}`).style.width = `${(100 * bytes * scale) / whole}%`;
    setText($(`bytes-${owner}`), held[place] == null ? "–" : megabytes(bytes));
  });
  const text = cache.pool_bytes
    ? `${megabytes(used)} of ${megabytes(cache.pool_bytes)} in use (${Math.round((100 * used) / whole)} %)`
    : `${megabytes(used)} in use`;
  setText($("pool-text"), text);
  setText($("bytes-free"), megabytes(whole - used));
  const parts = OWNERS.map((owner, place) => `${owner} ${megabytes(held[place] ?? 0)}`);
  $("pool-bar").setAttribute("aria-label", `KV cache by owner: ${parts.join(", ")}`);
  $("shared").hidden = total <= used;
}

function showSums({ requests, sequences, tokens, ttft_seconds, tpot_seconds }, sessions) {
  const reused = tokens.prompt ? ` (${Math.round((100 * tokens.reused) / tokens.prompt)} %)` : "";
  const sums = [
    ["Requests finished", count(requests.finished)],
    ["Requests cancelled", count(requests.cancelled)],
    ["Requests failed", count(requests.failed)],
    ["Sessions known", count(sessions)],
    ["Tokens read", count(tokens.prompt)],
    ["Tokens from the cache", count(tokens.reused) + reused],
    ["Tokens generated", count(tokens.generated)],
    ["Tokens evicted", count(tokens.evicted)],
    ["First token, mean", mean(ttft_seconds)],
    ["Later tokens, mean", mean(tpot_seconds)],
    ["Preemptions", count(sequences.preemptions)],
    ["Prefix hits", count(sequences.prefix_hits)],
  ];
  const list = $("sums");
  if (!list.children.length) {
    for (const [name] of sums) {
      const pair = document.createElement("div");
      pair.append(make("dt", "", name), make("dd", ""));
      list.append(pair);
    }
  }
  sums.forEach(([, value], place) => setText(list.children[place].lastChild, value));
}

function showOpen({ engine, open }) {
  const sequences = engine?.sequences;
  const running = sequences ? `${count(sequences.running)} running, ${count(sequences.waiting)} waiting` : "–";
  setText($("sequences"), `${running} in the engine`);
  const rows = open.map((one) => [
    [one.state === "waiting" ? "before its first token" : "answering"],
    [count(one.prompt_tokens || null), "number"],
    [duration(one.ttft_seconds), "number"],
    [duration(one.seconds), "number"],
    [one.endpoint],
    [one.key],
  ]);
  fill($("open"), rows, "No request is being answered.");
}

function showLast(last) {
  const rows = last.map((one) => [
    [clock(one.began_at)],
    [one.end === "error" ? `error ${one.status}` : one.end, one.end === "error" ? "wrong" : ""],
    [count(one.prompt_tokens), "number"],
    [count(one.cached_tokens), "number"],
    [count(one.generated_tokens), "number"],
    [duration(one.ttft_seconds), "number"],
    [duration(one.seconds), "number"],
    [one.endpoint],
    [one.key],
  ]);
  fill($("last"), rows, "None yet.");
}

function fill(table, rows, ifNone) {
  const [body] = table.tBodies;
  // The last column says whose requests they are, where the server has keys.
  table.classList.toggle("no-keys", !rows.some((cells) => cells.at(-1)[0]));
  if (!rows.length) {
    const cell = make("td", "none", ifNone);
    cell.colSpan = table.tHead.rows[0].cells.length;
    const row = document.createElement("tr");
    row.append(cell);
    body.replaceChildren(row);
    return;
  }
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, className = ""]) => make("td", className, text)));
    return row;
  });
  body.replaceChildren(...made);
}

// ------------------------------------------------------------------ the chat

let messages = [];
let session = newSession();
let answering = null;

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (answering || !text.trim()) return;
  $("message").value = "";
  $("message").focus();
  ask(text);
});

$("message").addEventListener("keydown", (event) => {
  if (event.key === "Escape") answering?.abort();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});

$("stop").addEventListener("click", () => {
  answering?.abort();
  $("message").focus();
});

$("new-chat").addEventListener("click", () => {
  answering?.abort();
  messages = [];
  session = newSession();
  $("messages").replaceChildren();
  $("message").focus();
});

function addMessage(who, text) {
  const shown = make("div", "message");
  const content = make("p", "text", text);
  content.dir = "auto";
  shown.append(make("p", "who", who), content);
  if (!messages.length && who === "You") $("messages").replaceChildren();
  $("messages").append(shown);
  return shown;
}

function keepingBottom(change) {
  const log = $("messages");
  const isAtBottom = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (isAtBottom) log.scrollTop = log.scrollHeight;
}

async function ask(text) {
  const stopping = new AbortController();
  const conversation = messages;
  answering = stopping;
  $("send").disabled = true;
  $("stop").disabled = false;
  addMessage("You", text);
  const shown = addMessage("Model", "");
  const content = shown.querySelector(".text");
  shown.setAttribute("aria-busy", "true");
  $("messages").scrollTop = $("messages").scrollHeight;
  conversation.push({ role: "user", content: text });
  const answer = { text: "", reason: "", cost: "", error: "" };
  try {
    for await (const chunk of stream(conversation, stopping.signal)) {
      take(chunk, answer);
      // A text node more for each piece: nothing is laid out again but what is new.
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) keepingBottom(() => content.append(piece));
    }
    if (!answer.reason) throw new Error("The connection ended before the answer did.");
  } catch (error) {
    if (stopping.signal.aborted) answer.cost = "stopped";
    else answer.error = error.message;
  }
  shown.removeAttribute("aria-busy");
  keepingBottom(() => {
    if (answer.cost) shown.append(make("p", "cost", answer.cost));
    if (answer.error) shown.append(make("p", "error", answer.error));
  });
  if (answer.error || !answer.text) {
    conversation.pop(); // the next question is asked as if this one had not been
    if (answer.error && !$("message").value) $("message").value = text;
  } else {
    conversation.push({ role: "assistant", content: answer.text });
  }
  if (answering === stopping) {
    answering = null;
    $("send").disabled = false;
    $("stop").disabled = true;
  }
}

function take(chunk, answer) {
  if (chunk.error) throw new Error(chunk.error.message);
  const choice = chunk.choices?.[0];
  answer.text += choice?.delta?.content ?? "";
  answer.reason = choice?.finish_reason ?? answer.reason;
  if (chunk.usage) answer.cost = cost(chunk.usage, chunk.ov_kvcrush, answer.reason);
}

function cost(usage, ours, reason) {
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const parts = [
    `${count(usage.prompt_tokens)} in${cached ? ` (${count(cached)} cached)` : ""}`,
    `${count(usage.completion_tokens)} out`,
  ];
  if (ours) {
    parts.push(`first token ${duration(ours.ttft_ms / 1000)}`, `${ours.tpot_ms} ms a token`);
    parts.push(`${count(ours.kv_tokens)} tokens in the cache, ${count(ours.evicted_tokens)} evicted`);
  }
  if (reason === "length") parts.push("cut off at its limit");
  return parts.join(" · ");
}

async function* stream(conversation, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const body = { model, messages: conversation, ...options };
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

look();
