// Tables and galleries as lists of items: filters, sorting and pages. Also the tooltip of the page.

const collator = new Intl.Collator('en', { numeric: true });
const byId = (id) => document.getElementById(id);
const counted = (count, noun) =>
  `${count.toLocaleString('en-US')} ${noun}${count === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;
const read = (node) => JSON.parse(node.querySelector(':scope > script').textContent);
// By the id of a list: a function that sets its filters. Buttons and charts call it.
const setters = new Map();

// matches(item, values): whether an item has the chosen values of the filters; '' means all. text(item): the text to search.
function list(node, { items, parent, matches, text, shown = () => {} }) {
  const size = Number(node.dataset.size) || Infinity;
  const selects = [...node.querySelectorAll('.bar select')];
  const turns = [...node.querySelectorAll('.turn')];
  const search = node.querySelector('input[type=search]');
  const countText = node.querySelector('.list-count');
  const texts = new Map();
  let order = items, page = 0, absent = false;
  const find = (item) => {
    if (!texts.has(item)) texts.set(item, text(item).toLowerCase());
    return texts.get(item);
  };

  function show(next) {
    const values = selects.map((select) => select.value);
    const typed = search ? search.value.toLowerCase() : '';
    const matching = absent ? [] : order.filter((item) => matches(item, values) && (typed === '' || find(item).includes(typed)));
    const last = Math.max(0, Math.ceil(matching.length / size) - 1);
    page = Math.min(Math.max(0, next), last);
    const start = last ? page * size : 0, some = last ? matching.slice(start, start + size) : matching;
    for (const item of some) item.hidden = false;
    shown(some, values);
    parent.replaceChildren(...some);
    if (!countText) return;
    const filtered = matching.length < items.length;
    const span = last ? `${(start + 1).toLocaleString('en-US')}–${(start + some.length).toLocaleString('en-US')} of ` : '';
    countText.textContent = `${span}${counted(matching.length, node.dataset.noun)}${filtered ? ` (filtered from ${items.length.toLocaleString('en-US')})` : ''}`;
    turns.forEach((turn, k) => { turn.hidden = last === 0; turn.disabled = page === (k ? last : 0); });
  }

  turns.forEach((turn, k) => turn.addEventListener('click', () => show(page + 2 * k - 1)));
  for (const select of selects) select.addEventListener('change', () => { absent = false; show(0); });
  if (search) search.addEventListener('input', () => show(0));
  if (node.id) {
    setters.set(node.id, (filters) => {
      absent = false;
      for (const select of selects) {
        const label = select.getAttribute('aria-label');
        select.value = Object.hasOwn(filters, label) ? filters[label] : '';
        // No item has the value, so no item is shown.
        if (select.selectedIndex < 0) { select.value = ''; absent = true; }
      }
      if (search) search.value = '';
      show(0);
      node.scrollIntoView();
    });
  }
  show(0);
  return { sort(compare) { order = [...items].sort(compare); show(0); } };
}

function table(node) {
  const body = node.querySelector('tbody');
  const rows = [...body.rows].map((row, k) => Object.assign(row, { place: k }));
  const keys = [...node.querySelectorAll('.bar select')].map((select) => Number(select.dataset.key));
  const value = (row, k) => row.cells[k].dataset.v ?? row.cells[k].textContent;
  const heads = [...node.querySelectorAll('th')];
  const kinds = heads.map((head) => head.className);
  const items = list(node, {
    items: rows, parent: body,
    matches: (row, values) => values.every((value, k) => value === '' || row.cells[keys[k]].textContent === value),
    text: (row) => [...row.cells].map((cell) => cell.textContent).join('\n'),
    shown: (some) => some.forEach((row) => kinds.forEach((kind, k) => { row.cells[k].className = kind; })),
  });
  let sorted = -1, down = false;
  heads.forEach((head, k) => head.firstChild.addEventListener('click', () => {
    const numeric = head.classList.contains('number');
    down = sorted === k ? !down : numeric;
    sorted = k;
    const sign = down ? -1 : 1, values = rows.map((row) => (numeric ? Number(row.cells[k].dataset.v ?? NaN) : value(row, k)));
    // Cells without a number come last in both directions.
    const compare = (a, b) => (numeric ? Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0 : sign * collator.compare(a, b));
    items.sort((a, b) => compare(values[a.place], values[b.place]) || a.place - b.place);
    heads.forEach((other, n) => (n === k ? other.setAttribute('aria-sort', down ? 'descending' : 'ascending') : other.removeAttribute('aria-sort')));
  }));
}

document.addEventListener('click', (event) => {
  const setter = event.target instanceof Element ? event.target.closest('[data-target]') : null;
  if (setter) setters.get(setter.dataset.target)?.(JSON.parse(setter.dataset.filters));
});

// The tooltip of the page: a text at the pointer.
function showTip(event, text) {
  const box = byId('tip');
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const home = byId('large').open ? byId('large') : document.body;
  if (box.parentNode !== home) home.append(box);
  const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
  const above = event.clientY + 20 + box.offsetHeight > window.innerHeight;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${above ? event.clientY - box.offsetHeight - 10 : event.clientY + 18}px`;
}

for (const kind of ['pointermove', 'pointerdown']) {
  document.addEventListener(kind, (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target?.closest('.vega')) showTip(event, target?.closest('[data-tip]')?.dataset.tip);
  });
}

for (const node of document.querySelectorAll('.table')) table(node);
