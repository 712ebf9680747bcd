"use strict";
/* Times in the reader's zone, and live pages. Everything else works without this script. */
const FORMS = {
  full: {day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"},
  day: {day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23"},
  time: {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"},
};
const ROWS = 500;
const sent = new Map();

/* What the server sent, before times were written in the reader's zone: that is what is compared. */
function remember(root) {
  for (const part of root.querySelectorAll("[data-part], [data-rows] > tr")) sent.set(part.id, part.innerHTML);
}

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) time.textContent = at.toLocaleString("en-GB", FORMS[time.dataset.form]).replace(",", "");
  }
}

/* Times in forms are UTC as they are sent, and the reader's own where they are written. */
function localInputs() {
  for (const input of document.querySelectorAll("input[type=datetime-local]")) {
    const label = input.previousSibling, at = new Date(input.defaultValue + "Z");
    label.textContent = label.textContent.replace(" (UTC)", "");
    if (!isNaN(at)) input.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  }
}

function sendUtc(event) {
  for (const input of event.target.querySelectorAll("input[type=datetime-local]"))
    if (input.value) event.formData.set(input.name, new Date(input.value).toISOString().slice(0, 16));
}

/* What the list asks for no longer holds of a row that is not sent any more; what stands below the
   last row that was sent may be of an older page. */
function dropGone(body, fresh, below) {
  const ends = fresh.ownerDocument.querySelector("a[rel=next]") ? below : null;
  const sentNow = new Set([...fresh.rows].map(row => row.id));
  for (const row of [...body.rows]) {
    if (row === ends) return;
    if (!sentNow.has(row.id) && !row.contains(document.activeElement)) row.remove();
  }
}

/* A list keeps its place: rows that are new come above, rows that changed change where they are. */
function mergeRows(body, fresh) {
  const above = window.scrollY > 0 && [...body.rows].find(row => row.getBoundingClientRect().bottom > 0);
  const before = above ? above.getBoundingClientRect().top : 0;
  let place = body.firstElementChild;
  for (const row of [...fresh.rows]) {
    const old = document.getElementById(row.id);
    if (!old) {
      const added = document.importNode(row, true);
      added.className = "fresh";
      body.insertBefore(added, place);
      sent.set(row.id, row.innerHTML);
      localTimes(added);
    } else {
      if (sent.get(row.id) !== row.innerHTML && !old.contains(document.activeElement)) {
        old.innerHTML = row.innerHTML;
        sent.set(row.id, row.innerHTML);
        localTimes(old);
      }
      place = old.nextElementSibling;
    }
  }
  dropGone(body, fresh, place);
  while (body.rows.length > ROWS) body.lastElementChild.remove();
  if (above && above.isConnected) window.scrollBy(0, above.getBoundingClientRect().top - before);
}

function replacePart(part, fresh) {
  const chosen = document.getSelection();
  const reading = chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode);
  if (sent.get(part.id) === fresh.innerHTML || part.contains(document.activeElement) || reading) return;
  sent.set(part.id, fresh.innerHTML);
  part.replaceChildren(...document.importNode(fresh, true).childNodes);
  localTimes(part);
}

async function refresh() {
  const answer = await fetch(location.href, {cache: "no-store"});
  if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = page.title;
  for (const part of document.querySelectorAll("[data-part], [data-rows]")) {
    const fresh = page.getElementById(part.id);
    if (fresh && part.hasAttribute("data-rows")) mergeRows(part, fresh);
    else if (fresh) replacePart(part, fresh);
    else if (part.id === "empty") part.remove();
  }
  return page.getElementById("main").dataset.live;
}

async function live(seconds) {
  let failed = 0;
  while (seconds) {
    await new Promise(go => setTimeout(go, Math.min(60, seconds * (1 + failed)) * 1000));
    if (document.hidden) continue;
    try {
      seconds = Number(await refresh());
      failed = 0;
      document.getElementById("fresh").textContent = seconds ? "Live." : "";
    } catch (error) {
      failed += 1;
      document.getElementById("fresh").textContent = "Not up to date: the console does not answer. It is asked again.";
    }
  }
}

remember(document);
localTimes(document);
localInputs();
document.addEventListener("formdata", sendUtc);
document.getElementById("zone").textContent =
  "Times are in your zone (" + Intl.DateTimeFormat().resolvedOptions().timeZone + "); point at one for UTC.";
document.addEventListener("keydown", event => {
  if (event.key === "/" && !event.target.closest("input, select, textarea") && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    document.getElementById("search").focus();
  }
});
live(Number(document.getElementById("main").dataset.live || 0));
