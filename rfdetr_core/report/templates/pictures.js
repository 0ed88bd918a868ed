// Pictures with shapes drawn over them. A click on a picture opens it large.

function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) if (value) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shortened(text, length) {
  const characters = Array.from(text);
  return characters.length > length ? `${characters.slice(0, length - 1).join('')}…` : text;
}

// only: the group to draw; -1: all groups. lines: the font size is the longer side of the picture divided by it.
function overlay(image, shapes, groups, only, lines) {
  const [wide, high] = ['width', 'height'].map((side) => Number(image.getAttribute(side)));
  const layer = svg('svg', { viewBox: `0 0 ${wide} ${high}`, class: 'overlay' });
  const size = Math.max(wide, high) / lines;
  let named = 0;
  for (const [group, x, y, width, height, style = '', outline = '', text = ''] of shapes.filter((shape) => only < 0 || shape[0] === only)) {
    const [name, color, unnamed] = groups[group];
    const about = [name, style === 'crowd' ? '(crowd)' : '', text].filter(Boolean).join(' ');
    if (outline) layer.append(svg('path', { d: outline, fill: color, class: `mask ${style}`, 'data-tip': about }));
    const box = { x: Math.min(x, x + width), y: Math.min(y, y + height), width: Math.abs(width), height: Math.abs(height) };
    layer.append(svg('rect', { ...box, stroke: color, class: `box ${style}`, 'data-tip': about }));
    if (unnamed) continue;
    // In the right part of the picture, the name ends at the right edge of its box.
    const start = x < 0.6 * wide;
    const at = { x: start ? Math.max(1, x) : Math.min(wide - 1, x + width), y: y < size * 1.2 ? y + size : y - size * 0.25, 'text-anchor': start ? 'start' : 'end' };
    layer.append(svg('text', { ...at, fill: color, 'font-size': size.toFixed(1), class: named < 10 ? '' : 'minor' }, shortened(about, 28)));
    named += 1;
  }
  return layer;
}

function enlarge(figure, make) {
  const large = byId('large');
  const image = figure.querySelector('img').cloneNode();
  const [wide, high] = ['width', 'height'].map((side) => Number(image.getAttribute(side)));
  const frame = Object.assign(document.createElement('div'), { className: 'frame' });
  frame.append(image, make(48));
  frame.style.width = `min(94vw, ${((86 * wide) / high).toFixed(2)}vh, 1100px)`;
  const below = Object.assign(document.createElement('div'), { className: 'below' });
  const close = Object.assign(document.createElement('button'), { type: 'button', className: 'close', textContent: 'Close' });
  close.addEventListener('click', () => large.close());
  below.append(figure.querySelector('figcaption').cloneNode(true), close);
  large.className = figure.closest('.grid').className.replace('grid', '');
  large.replaceChildren(frame, below);
  large.showModal();
}

function cards(node) {
  const { groups, ofGroups, shapes, facets } = read(node);
  const parent = node.querySelector('.grid');
  const figures = [...parent.querySelectorAll('figure')].map((figure, k) => Object.assign(figure, { place: k }));
  const names = [...node.querySelectorAll('.bar select')].map((select) => [...select.options].slice(1).map((option) => option.value));
  list(node, {
    items: figures, parent, text: (figure) => figure.textContent,
    matches: (figure, values) => values.every((value, k) => value === '' || facets[figure.place][k].includes(names[k].indexOf(value))),
    shown: (some, values) => {
      const only = ofGroups < 0 || values[ofGroups] === '' ? -1 : groups.findIndex((group) => group[0] === values[ofGroups]);
      for (const figure of some) {
        if (figure.only === only) continue;
        figure.only = only;
        figure.querySelector('.overlay')?.remove();
        figure.querySelector('.frame').append(overlay(figure.querySelector('img'), shapes[figure.place], groups, only, 26));
      }
    },
  });
  for (const box of node.querySelectorAll('[data-part]')) {
    const change = () => parent.classList.toggle(`no-${box.dataset.part}`, !box.checked);
    box.addEventListener('change', change);
    change();
  }
  parent.addEventListener('click', (event) => {
    const figure = event.target.closest('.open')?.closest('figure');
    if (figure) enlarge(figure, (lines) => overlay(figure.querySelector('img'), shapes[figure.place], groups, figure.only, lines));
  });
}

byId('large').addEventListener('click', (event) => { if (event.target === byId('large')) byId('large').close(); });
for (const node of document.querySelectorAll('.cards')) cards(node);
