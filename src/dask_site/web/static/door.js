// The word of a link stands behind #, so that neither logs nor other sites see it.
"use strict";

async function ask() {
  const word = location.hash.slice(1);
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
  for (const id of ["as", "button"]) document.getElementById(id).textContent = user;
  message.hidden = document.getElementById("command").hidden = true;
  document.getElementById("login").hidden = false;
}

addEventListener("hashchange", ask);
ask();
