// Pictures with their boxes, masks and class names drawn over them; a click shows one large.

const nameOf = (label) => (label < 0 ? '' : data.counts.classes[label].name);

// label: of the only class to draw, or null. parts: how many lines of text would fill the longer side.
function overlay(picture, label, parts) {
  const layer = svg('svg', { viewBox: `0 0 ${picture.width} ${picture.height}`, class: 'overlay' });
  const text = Math.max(picture.width, picture.height) / parts;
  let named = 0;
  const shown = picture.shapes.filter((shape) => label === null || shape[0] === label);
  for (const [own, x, y, width, height, crowd, outline] of shown) {
    const color = own < 0 ? null : hue(own);
    const about = own < 0 ? 'the box of the finding' : `${nameOf(own)}${crowd ? ' (crowd)' : ''}`;
    const common = { class: own < 0 ? 'fault' : crowd ? 'crowd' : null };
    if (outline) layer.append(tip(svg('path', { ...common, d: outline, fill: color, class: 'mask' }), about));
    const box = { x: Math.min(x, x + width), y: Math.min(y, y + height), width: Math.abs(width), height: Math.abs(height) };
    layer.append(tip(svg('rect', { ...common, ...box, stroke: color, class: `box ${common.class ?? ''}` }), about));
    if (own >= 0) {
      const top = y < text * 1.2 ? y + text : y - text * 0.25;
      // On the right, a name ends where its box does.
      const start = x < 0.6 * picture.width;
      const at = { x: start ? Math.max(1, x) : Math.min(picture.width - 1, x + width), y: top, 'text-anchor': start ? 'start' : 'end' };
      layer.append(svg('text', { ...at, fill: color, 'font-size': text.toFixed(1), class: named < 10 ? null : 'minor' }, shortened(nameOf(own), 24)));
      named += 1;
    }
  }
  return layer;
}

// lines: what stands below, text or elements. The shape of the frame is that of the picture.
function card(picture, lines, { label = null, split = null } = {}) {
  const frame = (parts) => {
    const image = element('img', { src: picture.src, width: picture.width, height: picture.height, alt: '', decoding: 'async' });
    const node = element('div', { class: 'frame' }, image, overlay(picture, label, parts));
    node.style.aspectRatio = `${picture.width} / ${picture.height}`;
    return node;
  };
  const open = () => {
    const large = byId('large');
    const view = frame(48);
    view.style.width = `min(94vw, ${((86 * picture.width) / picture.height).toFixed(2)}vh, 1100px)`;
    const close = element('button', { type: 'button', class: 'close', click: () => large.close() }, 'Close');
    large.replaceChildren(view, element('div', { class: 'below' }, element('div', {}, ...lines.map((line) => line.cloneNode(true))), close));
    large.showModal();
  };
  const button = element('button', { type: 'button', class: 'open', 'aria-label': 'Show large', click: open }, frame(26));
  return element('figure', { class: split === null ? null : `of-${split}` }, button, element('figcaption', {}, ...lines));
}

byId('large').addEventListener('click', (event) => { if (event.target === byId('large')) byId('large').close(); });

// The grid of ground truth, with what can be switched on and off.
function gallery(pictures) {
  const used = [...new Set(pictures.flatMap((one) => one.picture.shapes.map((shape) => shape[0])))].sort((a, b) => a - b);
  const masks = pictures.some((one) => one.picture.shapes.some((shape) => shape[6]));
  const grid = element('div', { class: 'grid pictures' });
  const state = { split: '', label: '' };
  const told = element('span', { class: 'told', 'aria-live': 'polite' });
  const show = () => {
    const label = state.label === '' ? null : Number(state.label);
    const found = pictures.filter((one) => (state.split === '' || one.split === state.split)
      && (label === null || one.picture.shapes.some((shape) => shape[0] === label)));
    grid.replaceChildren(...found.map((one) => {
      const total = one.picture.shapes.length + one.picture.more;
      const more = one.picture.more ? `, the ${number(one.picture.shapes.length)} largest drawn` : '';
      return card(one.picture, [foreign(one.path), element('span', { class: 'faint' }, `${one.split}, ${plural(total, 'object')}${more}`)], { label });
    }));
    told.textContent = plural(found.length, 'picture');
  };
  const select = (key, first, values, names) => element('select', { 'aria-label': first, change: (event) => { state[key] = event.target.value; show(); } },
    element('option', { value: '' }, first), ...values.map((value, k) => element('option', { value }, names[k])));
  const toggle = (name, on) => {
    grid.classList.toggle(`no-${name}`, !on);
    const change = (event) => {
      for (const node of [grid, byId('large')]) node.classList.toggle(`no-${name}`, !event.target.checked);
    };
    byId('large').classList.toggle(`no-${name}`, !on);
    return element('label', {}, element('input', { type: 'checkbox', checked: on, change }), ` ${name}`);
  };
  const splits = [...new Set(pictures.map((one) => one.split))];
  const bar = element('div', { class: 'bar' }, splits.length > 1 ? select('split', 'all splits', splits, splits) : null,
    used.length > 1 ? select('label', 'all classes', used, used.map(nameOf)) : null,
    toggle('boxes', true), masks ? toggle('masks', true) : null, toggle('names', used.length > 1), told);
  show();
  return element('div', {}, bar, grid);
}
