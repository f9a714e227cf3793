// Shows the pool, load and configurations that are asked for, and takes the differences of two configurations.
// Names from the data become text nodes only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const chosen = (id) => Number(byId(id)?.value ?? 0);
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // What is shown is kept in the address, so that a link or a reload brings it back.
  const kept = new URLSearchParams(location.hash.slice(1));
  const keep = (key, value) => {
    kept.set(key, value);
    try {
      history.replaceState(null, "", "#" + kept);
    } catch {
      // Some browsers refuse that for files; nothing else depends on it.
    }
  };
  const restore = (id) => {
    const select = byId(id);
    const value = kept.get(id);
    if (select && value !== null && [...select.options].some((option) => option.value === value)) {
      select.value = value;
    }
  };

  const showPanels = () => {
    const [pool, load] = [chosen("pool"), chosen("load")];
    for (const section of all("section.panel, section.pool")) {
      const isLoad = section.dataset.load === undefined || Number(section.dataset.load) === load;
      section.hidden = !(Number(section.dataset.pool) === pool && isLoad);
    }
  };

  const showMaps = (map) => {
    for (const button of all("button[data-map]")) {
      button.setAttribute("aria-pressed", String(button.dataset.map === map));
    }
    for (const set of all(".map-set")) set.hidden = set.dataset.map !== map;
  };

  const showChip = (chip) => {
    const isOn = chip.getAttribute("aria-pressed") === "true";
    for (const part of all(`[data-c="${chip.dataset.chip}"]`)) part.classList.toggle("away", !isOn);
  };

  // Lines of the configuration that is pointed at stand out from the others; one that is hidden cannot.
  const point = (chip) => {
    const configuration = chip?.getAttribute("aria-pressed") === "true" ? chip.dataset.chip : null;
    for (const drawing of all("figure.plot > svg")) {
      const parts = all("[data-c]", drawing);
      for (const part of parts) part.classList.toggle("near", part.dataset.c === configuration);
      drawing.classList.toggle("focus", parts.some((part) => part.dataset.c === configuration));
    }
  };

  // === Differences ===

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const estimate = (values) => {
    const middle = mean(values);
    if (values.length < 2) return { mean: middle, half: null };
    const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
    return { mean: middle, half: data.half_width_factor * Math.sqrt(squares / (values.length - 1)) };
  };
  const signed = (value, digits) => {
    const text = Math.abs(value).toFixed(digits);
    return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
  };
  const cellOf = (pool, load, configuration) =>
    data.cells.find((cell) => cell.pool === pool && cell.load === load && cell.configuration === configuration);

  const differenceCell = (row, a, b) => {
    const difference = estimate(a.map((value, seed) => b[seed] - value));
    const { factor, digits, better } = row;
    const interval = ({ half }, by, n) => (half === null ? "" : ` ±${(half * by).toFixed(n)}`);
    const isClear = difference.half !== null && Math.abs(difference.mean) > difference.half;
    const verdict = !isClear ? "same" : better === 0 ? "" : better * difference.mean > 0 ? "good" : "bad";
    const unclear = difference.half === null ? "" : difference.mean === 0 && difference.half === 0 ? "equal" : "not clear";
    const word = { good: "B better", bad: "B worse", same: unclear, "": "" }[verdict];
    const cell = element("td", { class: verdict }, element("b", {}, signed(difference.mean * factor, digits)));
    cell.append(element("small", {}, interval(difference, factor, digits)));
    const second = element("small");
    if (row.unit !== "%" && a.every((value) => value !== 0)) {
      const relative = estimate(a.map((value, seed) => (b[seed] - value) / value));
      second.append(`${signed(relative.mean * 100, 0)} %${interval(relative, 100, 0)} `);
    }
    second.append(word);
    cell.append(element("br"), second);
    return cell;
  };

  const differenceTable = (pool, a, b) => {
    const loads = data.loads.map((load, at) => ({ load, at }));
    loads.sort((one, other) => one.load - other.load);
    const head = element("tr", {}, element("th", { scope: "col", class: "left" }, "B minus A"));
    for (const { load } of loads) head.append(element("th", { scope: "col" }, `load ${load}`));
    const body = element("tbody");
    data.measures.forEach((row, nth) => {
      const title = row.unit ? `${row.name}, ${row.unit === "%" ? "% points" : row.unit}` : row.name;
      const line = element("tr", {}, element("th", { scope: "row" }, title));
      for (const { at } of loads) {
        const [ofA, ofB] = [cellOf(pool, at, a), cellOf(pool, at, b)];
        line.append(ofA && ofB ? differenceCell(row, ofA.values[nth], ofB.values[nth]) : element("td"));
      }
      body.append(line);
    });
    return element("div", { class: "scroll", role: "region", "aria-label": "Differences", tabindex: "0" }, element("table", {}, element("thead", {}, head), body));
  };

  const showDifferences = () => {
    const place = byId("differences");
    if (!place) return;
    const [a, b] = [chosen("a"), chosen("b")];
    place.replaceChildren();
    const names = data.configurations;
    place.append(element("p", {}, "A is ", element("b", {}, names[a]), ", B is ", element("b", {}, names[b]), "."));
    if (data.half_width_factor === null) {
      place.append(element("p", { class: "warning" }, "One seed was played, so there are no intervals: a difference may be chance."));
    }
    data.pools.forEach((pool, nth) => {
      if (data.pools.length > 1) place.append(element("h3", {}, pool));
      place.append(differenceTable(nth, a, b));
    });
  };

  // === Start ===

  for (const id of ["pool", "load", "a", "b"]) {
    restore(id);
    byId(id)?.addEventListener("change", (event) => {
      keep(id, event.target.value);
      id === "a" || id === "b" ? showDifferences() : showPanels();
    });
  }
  byId("swap")?.addEventListener("click", () => {
    [byId("a").value, byId("b").value] = [byId("b").value, byId("a").value];
    keep("a", byId("a").value);
    keep("b", byId("b").value);
    showDifferences();
  });
  for (const button of all("button[data-map]")) button.addEventListener("click", () => showMaps(button.dataset.map));
  for (const chip of all(".chip")) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      showChip(chip);
      // A finger cannot point without a tap.
      point(chip);
    });
    for (const event of ["pointerenter", "focus"]) chip.addEventListener(event, () => point(chip));
    for (const event of ["pointerleave", "blur"]) chip.addEventListener(event, () => point(null));
    showChip(chip);
  }
  showMaps("flight");
  showPanels();
  showDifferences();
})();
