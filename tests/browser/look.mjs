// Opens pages in Chromium, at each width and in each color scheme, and prints as JSON what it noticed.
// node look.mjs '{"chromium": PATH, "pages": {NAME: FILE}, "widths": [PIXELS], "shots": FOLDER or null}'
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { chromium } from "playwright-core";

const asked = JSON.parse(process.argv[2]);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: asked.chromium,
  args: ["--disable-gpu", "--disable-quic"],
});
const seen = [];
for (const [name, file] of Object.entries(asked.pages)) {
  for (const colorScheme of ["light", "dark"]) {
    seen.push(...await look(name, pathToFileURL(file).href, colorScheme));
  }
}
await browser.close();
console.log(JSON.stringify(seen));

async function look(name, address, colorScheme) {
  const context = await browser.newContext({ colorScheme });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const requests = [], messages = [], looks = [];
  page.on("request", (request) => request.url() === address || requests.push(request.url().slice(0, 80)));
  page.on("console", (message) => messages.push(message.text()));
  page.on("pageerror", (error) => messages.push(String(error)));
  page.on("dialog", (dialog) => { messages.push(dialog.message()); dialog.dismiss(); });
  await page.goto(address);
  for (const width of asked.widths) {
    await page.setViewportSize({ width, height: 900 });
    if (asked.shots) {
      await page.screenshot({ path: join(asked.shots, `${name}-${colorScheme}-${width}.png`), fullPage: true });
    }
    looks.push({ name, scheme: colorScheme, width, ...await page.evaluate(() => ({
      executed: "pwned" in window || document.scripts.length > 0,
      too_wide: document.documentElement.scrollWidth - window.innerWidth,
      styled: getComputedStyle(document.body).marginTop === "0px",
      pictures_missing: [...document.images].filter((image) => image.naturalWidth === 0).length,
      background: getComputedStyle(document.body).backgroundColor,
    })) });
  }
  // In the last and narrowest width, where most is hidden, with everything unfolded.
  await page.evaluate(() => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run());
  await page.emulateMedia({ media: "print", colorScheme });
  const printed_on = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await context.close();
  const of_all = {
    requests: requests.filter((request) => !request.startsWith("data:")),
    messages,
    violations: violations.map((v) => `${v.id}: ${v.nodes[0].html.slice(0, 150)}`),
    printed_on,
  };
  return looks.map((one) => ({ ...one, ...of_all }));
}
