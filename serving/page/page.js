"use strict";

const MOST_BARS = 10;
const at = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
const percent = (p) => `${(100 * p).toFixed(1)}%`;
let mostBytes = Infinity; // of a file, as the server says
let asked = 0; // of several images in a row only the last one's answer is shown

function element(kind, text, className) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function bar(entry) {
  const row = document.createElement("li");
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = entry.probability;
  bar.setAttribute("aria-hidden", "true"); // the number beside it says the same
  row.append(element("span", String(entry.label)), element("span", percent(entry.probability)), bar);
  return row;
}

const answer = (label, probability) => (label === null ? "–" : `${label} (${percent(probability)})`);

function expert(entry) {
  const row = element("tr", "", entry.weight === 0 ? "unused" : "");
  row.append(element("td", entry.template), element("td", percent(entry.weight), "number"));
  row.append(element("td", answer(entry.label, entry.probability)));
  row.append(element("td", answer(entry.left_out_label, entry.left_out_probability)));
  return row;
}

function show(found, name) {
  at("label").textContent = `${found.label} (${percent(found.probability)})`;
  at("unsure").hidden = !found.unsure;
  at("bars").replaceChildren(...found.probabilities.slice(0, MOST_BARS).map(bar));
  const more = found.probabilities.length - MOST_BARS;
  at("more").hidden = more <= 0;
  at("more").textContent = `and ${more} more`;
  at("experts").replaceChildren(...found.experts.map(expert));
  at("why").hidden = found.experts.length === 0;
  at("picture").alt = name;
  at("result").hidden = false;
  at("label").focus({ preventScroll: true });
}

function fail(message) {
  at("error").textContent = message;
  at("error").hidden = false;
  at("result").hidden = true;
}

async function ask(file) {
  const number = ++asked;
  at("error").hidden = true;
  if (file.size > mostBytes) {
    fail(`This file has ${megabytes(file.size)} MB, more than the ${megabytes(mostBytes)} MB that the server takes.`);
    return;
  }
  at("busy").textContent = "Looking at it …";
  URL.revokeObjectURL(at("picture").src);
  at("picture").src = URL.createObjectURL(file);
  try {
    const form = new FormData();
    form.append("file", file, file.name || "image");
    const response = await fetch("predict", { method: "POST", body: form });
    const found = await response.json();
    if (number !== asked) return;
    if (response.ok) show(found, file.name);
    else fail(found.error);
  } catch (error) {
    if (number === asked) fail("The server does not answer; is it still running?");
  }
  if (number === asked) at("busy").textContent = "";
}

function first(list) {
  if (list.length) ask(list[0]);
}

at("file").addEventListener("change", () => first(at("file").files));
document.addEventListener("paste", (event) => first(event.clipboardData.files));
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("dragover", () => at("drop").classList.add("over"));
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => first(event.dataTransfer.files));
at("form").addEventListener("submit", (event) => event.preventDefault());

fetch("model").then((response) => response.json()).then((model) => {
  mostBytes = model.limits.bytes;
  const experts = model.experts.length ? `, ${model.experts.length} experts` : "";
  at("model").textContent = `${model.method} on ${model.backbone}: ${model.classes.length} classes${experts}.`;
});
