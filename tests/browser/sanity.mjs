// What a page owes to people who do not see it well, or not at all. Both run in the page: they may use nothing from outside.

/** Controls without a name, IDs that are there twice, tables without heads, drawings without words. */
export function names() {
  const wrong = [];
  const shown = node => node.checkVisibility({ visibilityProperty: true });
  for (const node of document.querySelectorAll("input, select, textarea, button, a[href]")) {
    const by = node.getAttribute("aria-labelledby");
    const words = node.getAttribute("aria-label") ?? (by && document.getElementById(by)?.textContent)
      ?? (node.labels?.length ? [...node.labels].map(label => label.textContent).join(" ") : node.textContent);
    if (!words?.trim()) wrong.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
  for (const id of ids.filter((id, at) => ids.indexOf(id) !== at)) wrong.push(`twice: #${id}`);
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption || !table.querySelector("thead th[scope=col]")) wrong.push("a table without caption or heads");
  }
  for (const node of document.querySelectorAll("svg")) {
    if (shown(node) && !node.getAttribute("aria-label") && !node.closest("[aria-hidden=true]")) wrong.push("a drawing without words");
  }
  for (const node of document.querySelectorAll("[aria-controls], [aria-describedby]")) {
    const id = node.getAttribute("aria-controls") ?? node.getAttribute("aria-describedby");
    if (!document.getElementById(id)) wrong.push(`names nothing: ${id}`);
  }
  if (document.querySelectorAll("h1").length !== 1 || !document.documentElement.lang || !document.title) wrong.push("no single h1, language or title");
  return wrong;
}

/** Text whose contrast to its ground is under 4.5 (WCAG AA). */
export function contrasts() {
  const parse = color => (color.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const pale = new Set();
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
    if (!hasText || !node.checkVisibility({ visibilityProperty: true }) || node.closest(":disabled, svg")) continue;
    const [one, other] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) pale.add(`${contrast.toFixed(2)}: ${node.tagName.toLowerCase()}.${node.className} ${node.textContent.slice(0, 30)}`);
  }
  return [...pale];
}
