// Elements of the page. Texts go into it as text only, so nothing that a model writes is ever taken
// for markup.

export const $ = (id) => document.getElementById(id);

export function setText(element, text) {
  // An unchanged text is left alone: it may be selected, or be read out when it changes.
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
