"use strict";
// Words come from a model and are never read as HTML: they are set as text alone.
const models = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll("section")];
const [rows, columns] = models[0].grid;
const state = { view: 0, row: null, column: null, pinned: false, word: null };
const search = document.getElementById("word");
const said = document.getElementById("status");

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

// With two digits at least: of 19,200 words each may have a hundredth of a per cent.
function percent(share) {
  return `${share < 0.01 ? (100 * share).toPrecision(2) : (100 * share).toFixed(1)} %`;
}

function format(number, view) {
  if (view.is_share) return percent(number);
  return (number > 0 ? "+" : "") + (view.name === "cosine" ? number.toFixed(2) : number.toPrecision(3));
}

// A word's numbers, patch by patch and relative to the largest, or null where it is listed nowhere.
function mapOf(view, word) {
  if (Object.hasOwn(view.maps, word)) {
    const bytes = atob(view.maps[word].levels);
    const levels = Int8Array.from(bytes, (byte) => byte.charCodeAt(0));
    return { largest: view.maps[word].largest, values: Array.from(levels, (level) => level / 127) };
  }
  const listed = view.patches.flat().map((patch) => (patch.find(([name]) => name === word) ?? [word, 0])[1]);
  const largest = Math.max(...listed.map(Math.abs));
  return largest > 0 ? { largest, values: listed.map((number) => number / largest) } : null;
}

function peakOf(map, view) {
  const place = map.values.reduce((best, value, here) => (Math.abs(value) > Math.abs(map.values[best]) ? here : best), 0);
  const [row, column] = [Math.floor(place / columns), place % columns];
  return `strongest in row ${row + 1}, column ${column + 1}: ${format(map.largest * map.values[place], view)}`;
}

// The photo stays bright where the word is, dark where it is not, and turns blue where its number is negative.
function drawMap(canvas, map) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, columns, rows);
  if (state.word === null) return;
  const picture = context.createImageData(columns, rows);
  for (let place = 0; place < rows * columns; place++) {
    const value = map ? map.values[place] : 0;
    const blue = Math.max(0, -value);
    picture.data.set([50 * blue, 110 * blue, 200 * blue, 205 * (1 - Math.max(0, value))], 4 * place);
  }
  context.putImageData(picture, 0, 0);
}

function wordButton(word, children) {
  const button = make("button");
  button.type = "button";
  button.append(...children);
  button.setAttribute("aria-pressed", word === state.word);
  button.addEventListener("click", () => choose(word === state.word ? null : word));
  return button;
}

function listBars(list, patch, view) {
  const largest = Math.max(...patch.map(([, number]) => Math.abs(number)), Number.MIN_VALUE);
  list.replaceChildren(...patch.map(([word, number]) => {
    const bar = make("i", "", number < 0 ? "below" : "");
    bar.style.width = `${(100 * Math.abs(number)) / largest}%`;
    const item = make("li");
    item.append(wordButton(word, [make("bdi", word), make("data", format(number, view)), bar]));
    return item;
  }));
}

function listFacts(list, model) {
  const facts = { gate: ["gate", "percent"], energy: ["energy in these words", "percent"], entropy: ["entropy", "nats"] };
  list.replaceChildren(...Object.entries(facts).filter(([name]) => model[name]).flatMap(([name, [label, unit]]) => {
    const number = model[name][state.row][state.column];
    const text = unit === "percent" ? `${(100 * number).toFixed(0)} %` : `${number.toFixed(2)} ${unit}`;
    return [make("dt", label), make("dd", text)];
  }));
}

function show(section, model) {
  const find = (selector) => section.querySelector(selector);
  const view = model.views[state.view];
  const isPlaced = state.row !== null;
  const frame = find(".frame");
  frame.hidden = !isPlaced;
  find(".photo").classList.toggle("pinned", state.pinned);
  if (isPlaced) {
    frame.style.left = `${(100 * state.column) / columns}%`;
    frame.style.top = `${(100 * state.row) / rows}%`;
    frame.style.width = `${100 / columns}%`;
    frame.style.height = `${100 / rows}%`;
  }
  const where = `Row ${state.row + 1}, column ${state.column + 1}${state.pinned ? ", pinned" : ""}`;
  find(".patch h3").textContent = isPlaced ? where : "Point at a patch to read its words.";
  find(".about").textContent = view ? view.about : "This model has no such view.";
  drawMap(find("canvas"), view && state.word !== null ? mapOf(view, state.word) : null);
  listBars(find(".bars"), isPlaced && view ? view.patches[state.row][state.column] : [], view);
  listFacts(find("dl"), isPlaced && view?.name === "coefficients" ? model : {});
  find(".words").replaceChildren(...model.photo.map(({ word, share }) => {
    const item = make("li");
    item.append(wordButton(word, [make("bdi", word), make("data", percent(share))]));
    return item;
  }));
}

function tell() {
  if (state.word === null) return "";
  return sections.map((section, number) => {
    const view = models[number].views[state.view];
    const map = view && mapOf(view, state.word);
    const text = map ? `“${state.word}” is ${peakOf(map, view)}` : `“${state.word}” is not among the strongest words here`;
    return models.length > 1 ? `${section.getAttribute("aria-label")}: ${text}` : text;
  }).join(" · ");
}

function render() {
  const focused = document.activeElement.closest("button");
  const list = focused && focused.closest("ol, ul");
  const position = list && [...list.querySelectorAll("button")].indexOf(focused);
  sections.forEach((section, number) => show(section, models[number]));
  said.textContent = tell();
  if (list) list.querySelectorAll("button")[position]?.focus(); // the lists are made anew
}

function choose(word) {
  state.word = word;
  search.value = word ?? "";
  render();
}

function move(row, column) {
  [state.row, state.column] = [row, column];
  render();
}

function letGo() {
  Object.assign(state, { row: null, column: null, pinned: false, word: null });
  search.value = "";
  render();
}

function watch(photo) {
  const placeOf = (event) => {
    const box = photo.getBoundingClientRect();
    const within = (share, number) => Math.min(number - 1, Math.max(0, Math.floor(share * number)));
    return [within((event.clientY - box.top) / box.height, rows), within((event.clientX - box.left) / box.width, columns)];
  };
  photo.addEventListener("pointermove", (event) => {
    const [row, column] = placeOf(event);
    if (!state.pinned && (row !== state.row || column !== state.column)) move(row, column);
  });
  photo.addEventListener("pointerleave", () => {
    if (!state.pinned && !photo.matches(":focus-visible")) move(null, null);
  });
  photo.addEventListener("click", (event) => {
    const [row, column] = placeOf(event);
    state.pinned = !(state.pinned && row === state.row && column === state.column);
    move(row, column);
  });
  photo.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter") state.pinned = !state.pinned;
    else if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = state.row === null || event.key === "Enter" ? [0, 0] : steps[event.key];
    const within = (place, number) => Math.min(number - 1, Math.max(0, place));
    move(within((state.row ?? 0) + down, rows), within((state.column ?? 0) + right, columns));
  });
}

function find(text) {
  const known = [...words].find((word) => word === text) ?? [...words].find((word) => word.toLowerCase() === text.toLowerCase());
  if (text === "" || known !== undefined) {
    state.word = known ?? null;
    render();
    return;
  }
  state.word = null;
  render();
  const near = [...words].filter((word) => word.toLowerCase().includes(text.toLowerCase())).slice(0, 5);
  said.textContent = `“${text}” is not among the words of this page${near.length ? `; near: ${near.join(", ")}` : ""}.`;
}

const views = models.flatMap((model) => model.views);
const listed = views.flatMap((view) => view.patches.flat(2).map(([word]) => word));
const words = new Set([...views.flatMap((view) => Object.keys(view.maps)), ...listed]);
document.getElementById("words").append(...[...words].map((word) => Object.assign(make("option"), { value: word })));
document.querySelectorAll(".lines").forEach((lines) => {
  lines.style.backgroundSize = `${100 / columns}% ${100 / rows}%`;
});
document.querySelectorAll(".photo").forEach(watch);
sections.forEach((section, number) => section.querySelector(".notes").replaceChildren(...models[number].notes.map((note) => make("li", note))));
document.querySelectorAll("[name=view]").forEach((choice) => choice.addEventListener("change", () => {
  state.view = Number(choice.value);
  render();
}));
search.addEventListener("input", () => find(search.value.trim()));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") letGo();
});
render();
