// What pages do beside showing: new decisions as they arrive, and commands that can be copied.
"use strict";

const EVERY_MS = 2000;

function follow() {
  const rows = document.getElementById("decisions");
  const empty = document.getElementById("empty");
  const source = (rows ?? empty)?.dataset.latest;
  const live = document.getElementById("live");
  if (!source || !live) return;
  const text = document.getElementById("live-text");
  const toggle = document.getElementById("live-toggle");
  const status = document.getElementById("live-status");
  const older = document.getElementById("older");
  const most = Math.max(50, rows ? rows.rows.length : 0);
  let paused = false;

  function show(state, words) {
    live.className = `live ${state}`;
    if (text.textContent !== words) text.textContent = words;
  }

  function take(html, below) {
    const fresh = document.createElement("tbody");
    fresh.innerHTML = html; // rendered and escaped by the same template as the page
    if (!rows) {
      if (fresh.rows.length) location.reload();
      return;
    }
    const known = new Set([...rows.rows].map((row) => row.dataset.id));
    const arrived = [...fresh.rows].filter((row) => !known.has(row.dataset.id));
    // More came at once than a page holds: what lies between is a page further on, and no gap in this one.
    if (arrived.length && arrived.length === fresh.rows.length) rows.replaceChildren();
    for (const row of arrived.reverse()) {
      row.classList.add("arrived");
      rows.prepend(row);
    }
    while (rows.rows.length > most) rows.rows[rows.rows.length - 1].remove();
    if (arrived.length && below) {
      older.href = below;
      older.hidden = false;
    }
    if (arrived.length) {
      status.textContent = arrived.length === 1 ? "One new decision." : `${arrived.length} new decisions.`;
      document.querySelector(".nothing")?.remove();
    }
  }

  async function look() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch(source, { headers: { Accept: "application/json" }, redirect: "manual" });
        if (answer.type === "opaqueredirect") {
          location.reload(); // signed out meanwhile: the page itself leads to signing in
          return;
        }
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const latest = await answer.json();
        take(latest.rows, latest.older);
        const halts = document.getElementById("halts");
        if (halts.dataset.shown !== latest.halts) {
          if (halts.dataset.shown !== undefined) halts.innerHTML = latest.halts;
          halts.dataset.shown = latest.halts;
        }
        show("on", "Live");
      } catch {
        show("lost", "Connection lost, trying again");
      }
    }
    setTimeout(look, EVERY_MS);
  }

  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    paused = !paused;
    toggle.textContent = paused ? "Go on" : "Pause";
    show(paused ? "" : "on", paused ? "Paused" : "Live");
  });
  show("on", "Live");
  setTimeout(look, EVERY_MS);
}

function offerCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll(".command .copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

follow();
offerCopies();
