// Asks each second what the server holds and does, and has one chat with it.

import { openChat } from "./chat.js";
import { $, setText } from "./elements.js";
import { askForKey, headers, showThatKeyIsRight, whenKeyChanges } from "./key.js";
import { showStats } from "./stats.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 10000;
const CONDITIONS = {
  ready: "Ready",
  loading: "Loading the model",
  draining: "Shutting down",
  failed: "The engine failed; the server's log says why",
};

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
    showThatKeyIsRight();
    model = stats.model;
    showCondition(CONDITIONS[stats.condition] ?? stats.condition, stats.condition === "failed", true);
    showStats(stats);
  } catch {
    showCondition("The server does not answer", true);
  } finally {
    looking = false;
    if (again !== null && !document.hidden) timer = setTimeout(look, again);
  }
}

function showCondition(text, isWrong, isKnown = !isWrong) {
  const element = $("condition");
  setText(element, text);
  element.className = isWrong ? "wrong" : "ready";
  $("figures").classList.toggle("stale", !isKnown);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});
whenKeyChanges(look);
openChat(() => model);
look();
