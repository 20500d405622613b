// What a reader would see on a page, measured. Each function returns a list of what is wrong.
window.look = (() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colours = new Map();

  /** A CSS colour as [red, green, blue, alpha], 0 to 255 and 0 to 1. */
  function colour(css) {
    if (!colours.has(css)) {
      pixel.clearRect(0, 0, 1, 1);
      pixel.fillStyle = css;
      pixel.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data;
      colours.set(css, [red, green, blue, alpha / 255]);
    }
    return colours.get(css);
  }

  function over(front, back, opacity = 1) {
    const alpha = front[3] * opacity;
    return [0, 1, 2].map((i) => front[i] * alpha + back[i] * (1 - alpha)).concat(1);
  }

  function background(element) {
    if (!element) return [255, 255, 255, 1]; // the canvas of the browser
    const own = colour(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, background(element.parentElement));
  }

  /** Relative luminance and contrast as WCAG 2.2 defines them. */
  function luminance([red, green, blue]) {
    const [r, g, b] = [red, green, blue].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  }

  function opacity(element) {
    let product = 1;
    for (let e = element; e; e = e.parentElement) product *= Number(getComputedStyle(e).opacity);
    return product;
  }

  /** The elements that hold visible text themselves. */
  function* withText() {
    const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const seen = new Set();
    while (nodes.nextNode()) {
      const element = nodes.currentNode.parentElement;
      if (!nodes.currentNode.data.trim() || seen.has(element)) continue;
      seen.add(element);
      const shown = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
      if (shown && element.getBoundingClientRect().width > 0) yield element;
    }
  }

  function name(element) {
    const text = (element.textContent || element.src || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.tagName.toLowerCase()}> "${text}"`;
  }

  return {
    /** Text that is too pale for its background. */
    pale(least = 4.5) {
      const found = [];
      for (const element of withText()) {
        const back = background(element);
        const front = over(colour(getComputedStyle(element).color), back, opacity(element));
        const ratio = contrast(front, back);
        if (ratio < least) found.push(`contrast ${ratio.toFixed(2)} of ${name(element)}`);
      }
      return found;
    },

    /** Text that is too small to read; the indices of a formula may be smaller. */
    small(least = 10) {
      const found = [];
      for (const element of withText()) {
        const size = parseFloat(getComputedStyle(element).fontSize);
        if (size < least && !element.closest("math")) found.push(`${size} px: ${name(element)}`);
      }
      return found;
    },

    /** A page that scrolls sideways, and what juts out of it or is cut instead of scrolling. */
    wide() {
      const found = [];
      const { scrollWidth, clientWidth } = document.scrollingElement;
      if (scrollWidth > clientWidth) found.push(`the page is ${scrollWidth} px wide`);
      const scrolls = (e) => e.matches("article") || /auto|scroll/.test(getComputedStyle(e).overflowX);
      for (const element of document.querySelectorAll("article *")) {
        if (!element.checkVisibility() || element.getBoundingClientRect().right <= clientWidth + 1) continue;
        let around = element;
        while (!scrolls(around)) around = around.parentElement;
        if (around.matches("article")) found.push(`sticks out: ${name(element)}`);
      }
      return found;
    },

    /** Pictures that did not load, that say nothing to who cannot see them, or that have no background. */
    async pictures() {
      const images = [...document.images];
      for (const image of images) image.loading = "eager";
      await Promise.all(images.map((image) => image.decode().catch(() => {})));
      return images.flatMap((image) => {
        const found = [];
        if (!image.naturalWidth) found.push(`not loaded: ${image.src}`);
        if (!image.alt.trim()) found.push(`no text for ${image.src}`);
        const twin = /#(only|gh)-(light|dark)/.test(image.src);
        const own = colour(getComputedStyle(image).backgroundColor)[3] === 1;
        if (!twin && !own) found.push(`no background: ${image.src}`);
        return found;
      });
    },

    /** How bright the page is, from 0 to 1. */
    brightness: () => luminance(background(document.body)),

    /** The pages behind the first entries that the search shows. */
    found(most = 3) {
      const entries = [...document.querySelectorAll(".md-search-result__item")].slice(0, most);
      return entries.map((entry) => new URL(entry.querySelector("a").href).pathname.slice(1));
    },
  };
})();
