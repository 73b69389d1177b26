// The word of a link stands behind #, so that neither logs nor other sites see it; after it, from
// its first slash on, where the link leads, which the broker checks.
"use strict";

async function ask() {
  const said = location.hash.slice(1);
  const at = said.includes("/") ? said.indexOf("/") : said.length;
  const word = said.slice(0, at);
  if (!word) return;
  history.replaceState(null, "", location.pathname);
  const body = new URLSearchParams({ word, who: "1" });
  const answer = await fetch("/login", { method: "POST", body });
  const message = document.getElementById("message");
  if (!answer.ok) {
    message.textContent = "This link was used already, or is older than a minute. Run this again:";
    return;
  }
  const { user } = await answer.json();
  document.getElementById("word").value = word;
  document.getElementById("onward").value = said.slice(at);
  for (const id of ["as", "button"]) document.getElementById(id).textContent = user;
  message.hidden = document.getElementById("command").hidden = true;
  document.getElementById("login").hidden = false;
}

addEventListener("hashchange", ask);
ask();
