// Refreshes the page in place: fetches it again and puts in place what has `data-live` and an id.
// Without this script the pages say the same, as of when they were loaded.
"use strict";

const EVERY_MS = 5000;
const told = document.getElementById("refreshing");
const button = document.createElement("button");
button.type = "button";
let paused = false;

function label() {
  button.textContent = paused ? "Go on refreshing" : "Pause refreshing";
}

function isBeingRead() {
  const selection = document.getSelection();
  return document.hidden || paused || (selection !== null && !selection.isCollapsed);
}

// What the reader has opened, scrolled or stands on stays so in what comes in its place.
function keepPlace(before, after) {
  for (const folded of before.querySelectorAll("details[id]")) {
    const same = after.querySelector(`details[id="${CSS.escape(folded.id)}"]`);
    if (same) same.open = folded.open;
  }
  const scrolled = [...before.querySelectorAll(".scroll")].map((area) => area.scrollLeft);
  const active = document.activeElement;
  let place = null;
  if (active && before.contains(active)) {
    const kind = active.tagName.toLowerCase();
    place = [kind, [...before.querySelectorAll(kind)].indexOf(active), active.getAttribute("href")];
  }
  before.replaceWith(after);
  after.querySelectorAll(".scroll").forEach((area, at) => { area.scrollLeft = scrolled[at] || 0; });
  if (place) {
    const alike = [...after.querySelectorAll(place[0])];
    const same = alike.find((each) => place[2] !== null && each.getAttribute("href") === place[2]) || alike[place[1]];
    if (same) same.focus({ preventScroll: true });
  }
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const here = [...document.querySelectorAll("[data-live][id]")];
  const there = new Map([...page.querySelectorAll("[data-live][id]")].map((each) => [each.id, each]));
  if (!answer.ok && !there.has("problem")) throw new Error(`status ${answer.status}`);
  if (here.length !== there.size || here.some((each) => !there.has(each.id))) {
    if (!answer.ok && here.every((each) => each.id !== "problem")) {
      const why = page.querySelector(".problem");
      throw new Error(why ? why.textContent : `status ${answer.status}`);
    }
    location.reload();
    return;
  }
  for (const each of here) keepPlace(each, document.importNode(there.get(each.id), true));
}

async function again() {
  if (!isBeingRead()) {
    try {
      await refresh();
      told.textContent = "";
    } catch (problem) {
      const message = `Not refreshed: ${problem.message}. What is shown is as it was last told.`;
      if (told.textContent !== message) told.textContent = message;
    }
  }
  setTimeout(again, EVERY_MS);
}

label();
button.addEventListener("click", () => {
  paused = !paused;
  label();
});
told.after(button);
setTimeout(again, EVERY_MS);
