// Takes a picture of a page, or of the part of it that a selector names.
// node shoot.mjs '{"chromium": PATH, "page": FILE, "part": SELECTOR or null, "width": PIXELS, "height": PIXELS, "out": FILE}'
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const asked = JSON.parse(process.argv[2]);
const browser = await chromium.launch({
  executablePath: asked.chromium,
  args: ["--disable-gpu", "--disable-quic"],
});
const page = await browser.newPage({ viewport: { width: asked.width, height: asked.height } });
await page.goto(pathToFileURL(asked.page).href);
await (asked.part ? page.locator(asked.part) : page).screenshot({ path: asked.out });
await browser.close();
