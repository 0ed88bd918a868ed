// Charts. Vega-Lite draws them as SVG, the visible ones first. Its expressions are interpreted, because the content security
// policy of the page forbids eval.

const axis = { labelColor: 'var(--text)', titleColor: 'var(--faint)', gridColor: 'var(--line)', domainColor: 'var(--line)', tickColor: 'var(--line)', labelFontSize: 12, titleFontSize: 12, titleFontWeight: 'normal', titlePadding: 8 };
const config = { font: 'system-ui, sans-serif', background: 'transparent', axis, aria: false, view: { stroke: null }, padding: 4 };

// A tooltip is a text, or values by title. Each point of a line is in a Voronoi cell. Vega-Lite's tooltip of a cell lacks the
// texts, so the tooltip of the point is used.
function tooltip(handler, event, item, original) {
  const value = original && item?.mark.name?.endsWith('_voronoi') ? item.datum.tooltip : original;
  const lines = value && typeof value === 'object' ? Object.entries(value).map(([title, text]) => `${title}: ${text}`) : [value ?? ''];
  showTip(event, lines.join('\n'));
}

async function draw(node) {
  const { spec, leastWidth, mostWidth, choose } = JSON.parse(node.closest('.scroll').nextElementSibling.textContent);
  if (leastWidth) node.style.minWidth = `${leastWidth}px`;
  if (mostWidth) node.style.maxWidth = `${mostWidth}px`;
  const options = { mode: 'vega-lite', renderer: 'svg', ast: true, actions: false, defaultStyle: false, config, tooltip };
  const { view } = await vegaEmbed(node, { ...spec, autosize: { type: 'fit-x', contains: 'padding' } }, options);
  await view.runAsync();
  if (choose) {
    const names = view.signal('names');
    node.classList.add('chooses');
    view.addEventListener('click', (event, item) => {
      if (!item?.datum || item.datum.row === undefined) return;
      const chosen = Object.entries(choose.filters).map(([label, name]) => [label, item.datum[name === 'row' ? 'of_row' : 'of_column']]);
      setters.get(choose.target)?.(Object.fromEntries(chosen));
    });
  }
}

// A chart without a width, such as one in closed details, is drawn when it gets a width.
const charts = [...document.querySelectorAll('.vega')];
const started = new Map();
const start = (node) => {
  if (!started.has(node)) {
    started.set(node, draw(node).catch((error) => {
      node.textContent = 'This chart cannot be drawn.';
      console.error(error);
    }));
  }
  return started.get(node);
};
const drawAll = async () => { for (const node of charts) if (node.offsetWidth) await start(node); };
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { seen.unobserve(target); start(target); }
  }
}, { rootMargin: '300px' });
for (const node of charts) seen.observe(node);
window.addEventListener('beforeprint', drawAll);
document.documentElement.dataset.ready = 'yes';
// When the page is idle, the charts that are not visible are drawn too, one at a time.
(window.requestIdleCallback ?? window.setTimeout)(() => drawAll().then(() => { document.documentElement.dataset.drawn = 'yes'; }));
