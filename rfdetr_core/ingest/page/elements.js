// Elements from names and text. Text only ever becomes text nodes and attributes, never markup.

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString('en-US');
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : '–');
const plural = (count, noun, told = true) =>
  `${told ? `${number(count)} ` : ''}${noun}${count === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// A name from the dataset: it cannot turn the direction of the text around it.
const foreign = (text) => element('bdi', { class: 'name', dir: 'auto' }, text);

function shortened(text, length) {
  const characters = Array.from(text);
  return characters.length > length ? `${characters.slice(0, length - 1).join('')}…` : text;
}

// Colours of classes by index: far apart for neighbours.
const hue = (index) => `hsl(${((index * 137.508 + 48) % 360).toFixed(0)} 95% 58%)`;

// One tooltip for the page: of the mark under the pointer or finger.
const tips = new WeakMap();

function tip(node, text) {
  tips.set(node, text);
  return node;
}

function showTip(event) {
  const text = event.target instanceof Element ? tips.get(event.target) : undefined;
  const box = byId('tip');
  box.hidden = text === undefined;
  if (text === undefined) return;
  box.textContent = typeof text === 'function' ? text() : text;
  const home = byId('large').open ? byId('large') : document.body;
  if (box.parentNode !== home) home.append(box);
  const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
  const above = event.clientY + 20 + box.offsetHeight > window.innerHeight;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${above ? event.clientY - box.offsetHeight - 10 : event.clientY + 18}px`;
}

document.addEventListener('pointermove', showTip);
document.addEventListener('pointerdown', showTip);
