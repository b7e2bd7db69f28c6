// What the server holds and does, as /stats tells it.

import { $, make, setText } from "./elements.js";
import { age, clock, count, duration, mean, megabytes } from "./figures.js";

const OWNERS = ["running", "waiting", "chats", "prefixes"];

export function showStats(stats) {
  setText($("model"), stats.model);
  document.title = `${stats.model} – ov-kvcrush`;
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
