// One conversation with the model, through the same endpoint as any other client's.

import { answerTo } from "./answers.js";
import { $, make } from "./elements.js";
import { count, duration } from "./figures.js";

let modelName;
let messages = [];
let session = newSession();
let answering = null;

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// nameOf gives the model's name as the server answers to it.
export function openChat(nameOf) {
  modelName = nameOf;
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
}

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
    for await (const chunk of answerTo(modelName(), conversation, session, stopping.signal)) {
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
