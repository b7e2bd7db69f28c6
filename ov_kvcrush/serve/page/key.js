// The API key, kept in this tab until it is closed.

import { $, setText } from "./elements.js";

const KEY = "ov-kvcrush-key";

export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export function askForKey() {
  const given = sessionStorage.getItem(KEY) !== null;
  setText($("key-note"), given ? "The server does not know this key." : "Kept in this tab until it is closed.");
  $("key-form").hidden = false;
}

export function showThatKeyIsRight() {
  $("key-form").hidden = true;
  $("forget-key").hidden = sessionStorage.getItem(KEY) === null;
}

export function whenKeyChanges(call) {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value.trim());
    $("key").value = "";
    call();
  });
  $("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    call();
  });
}
