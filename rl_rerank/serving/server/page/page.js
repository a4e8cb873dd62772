"use strict";
// Passages and answers are foreign text: they enter the page through textContent only.

const element = (id) => document.getElementById(id);

const make = (name, className, text) => {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
};

const say = (text, isBad = false) => {
  element("status").textContent = text;
  element("status").classList.toggle("bad", isBad);
};

const SCALES = {
  log_odds: "scores are log-odds: above 0 is more likely relevant than not",
  points: "scores are points",
  relative: "scores compare the passages of this list only",
  order: "the model orders passages and gives no scores",
};

const passages = () =>
  element("passages").value.split(/\n\s*\n/).map((text) => text.trim()).filter((text) => text !== "");

const asked = (documents) => {
  const body = { query: element("query").value, documents, return_reasoning: element("reasoning").checked };
  const instruction = element("instruction").value.trim();
  return instruction === "" ? body : { ...body, instruction };
};

const send = async (body) => {
  const headers = { "Content-Type": "application/json" };
  const key = element("key").value.trim();
  if (key !== "") headers.Authorization = `Bearer ${key}`;
  const response = await fetch("/v2/rerank", { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
};

const row = (result, place, text, hasScores) => {
  const made = document.createElement("li");
  const score = make("div", "score", hasScores ? result.relevance_score.toFixed(3) : "");
  score.append(make("small", "", `was ${result.index + 1}`));
  made.append(make("div", "rank", String(place + 1)), make("div", "text", text), score);
  return made;
};

const thought = (reasoning) => {
  const made = document.createElement("section");
  made.append(make("h2", "", "Reasoning"));
  // The identifiers in the text are those of the prompt.
  if (reasoning.documents.some((index, i) => index !== i)) {
    const names = reasoning.documents.map((index, i) => `[${i + 1}] is passage ${index + 1}`);
    made.append(make("p", "muted", names.join(", ")));
  }
  made.append(make("div", "thought", reasoning.text));
  return made;
};

const show = (answer, documents, seconds) => {
  const tokens = answer.usage ? `, ${answer.usage.total_tokens} tokens` : "";
  const warnings = (answer.meta.warnings || []).map((text) => `. ${text}`).join("");
  say(`${documents.length} passages in ${seconds.toFixed(2)} s${tokens}; ${SCALES[answer.meta.score_scale]}${warnings}`);
  const hasScores = answer.meta.score_scale !== "order";
  element("results").replaceChildren(...answer.results.map((r, place) => row(r, place, documents[r.index], hasScores)));
  element("thoughts").replaceChildren(...(answer.reasoning || []).map(thought));
};

const rank = async (event) => {
  event.preventDefault();
  const button = element("form").querySelector("button");
  const documents = passages();
  const started = performance.now();
  button.disabled = true;
  say("Ranking…");
  element("results").replaceChildren();
  element("thoughts").replaceChildren();
  try {
    show(await send(asked(documents)), documents, (performance.now() - started) / 1000);
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
};

const describe = async () => {
  try {
    const state = await (await fetch("/healthz")).json();
    element("model").textContent = state.model;
    element("about").textContent = state.reasons ? "It writes reasoning before its answers." : "";
    element("reasons").hidden = !state.reasons;
    element("reasoning").checked = state.reasons;
  } catch (error) {
    say(`The server does not answer: ${error.message}`, true);
  }
};

element("form").addEventListener("submit", rank);
describe();
