/* JPEG to JPEG without pixels: divide the quantised coefficients by the ratio of the quantisation tables.

   The module has one function, requantise(data, quality, small), which returns a baseline JPEG as bytes, or
   None if the file must be decoded. Files are hostile. libjpeg reports errors and warnings through callbacks
   that must not return; here both leave through longjmp, so a file with any of them is never written. */
#define Py_LIMITED_API 0x030B0000 /* CPython 3.11, the first whose limited API has Py_buffer */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "huffman_tables.h"

/* The largest coefficient that baseline Huffman codes express: 10 bits for AC, and 11 for the difference of
   two DC coefficients. libjpeg's vector code does not check it. */
#define MAX_COEFFICIENT 1023.0f

/* An AC coefficient is rounded away from zero from 0.6 on, a DC coefficient from 0.5. */
#define AC_ROUNDING 0.4f
#define DC_ROUNDING 0.5f

/* Scans of progressive files. Encoders write about 10; each costs time, however short it is. */
#define MAX_SCANS 100

/* Qualities for which the fitted Huffman tables are used. Outside, optimised tables are much smaller. */
#define MIN_FITTED_QUALITY 25
#define MAX_FITTED_QUALITY 65

/* GCC compiles the function twice, and the loader chooses. Only glibc's loader can. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* One conversion. `size` is the size of `output`, later the number of bytes written. */
typedef struct {
  struct jpeg_decompress_struct source;
  struct jpeg_compress_struct target;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  struct jpeg_destination_mgr destination;
  jmp_buf refuse;
  unsigned char *output;
  size_t size;
} Conversion;

static void refuse(j_common_ptr common)
{
  longjmp(((Conversion *)common->client_data)->refuse, 1);
}

static void refuse_warning(j_common_ptr common, int level)
{
  if (level < 0)
    refuse(common);
}

static void print_nothing(j_common_ptr common)
{
  (void)common;
}

static void check_scan(j_common_ptr common)
{
  if (common->is_decompressor && ((j_decompress_ptr)common)->input_scan_number > MAX_SCANS)
    refuse(common);
}

static void start_output(j_compress_ptr target)
{
  Conversion *conversion = target->client_data;
  target->dest->next_output_byte = conversion->output;
  target->dest->free_in_buffer = conversion->size;
}

static boolean refuse_large_output(j_compress_ptr target)
{
  refuse((j_common_ptr)target);
  return FALSE;
}

static void end_output(j_compress_ptr target)
{
  ((Conversion *)target->client_data)->size -= target->dest->free_in_buffer;
}

FOR_EACH_PROCESSOR
static void requantise_blocks(JCOEF *restrict coefficients, size_t blocks, const float *restrict ratios,
                              const float *restrict rounding)
{
  for (size_t block = 0; block < blocks; block++, coefficients += DCTSIZE2)
    for (int k = 0; k < DCTSIZE2; k++) {
      float value = (float)coefficients[k] * ratios[k];
      value = value < MAX_COEFFICIENT ? value : MAX_COEFFICIENT;
      value = value > -MAX_COEFFICIENT ? value : -MAX_COEFFICIENT;
      coefficients[k] = (JCOEF)(value + __builtin_copysignf(rounding[k], value));
    }
}

/* Return whether this kind of file can be converted. In RGB and CMYK files the components have other
   meanings. More colour samples than in 4:2:0 cost more bytes than decoding saves time if `small`. */
static int is_supported(j_decompress_ptr source, int small)
{
  const jpeg_component_info *component = source->comp_info;
  if (source->data_precision != 8 || source->arith_code)
    return 0;
  if (source->jpeg_color_space == JCS_GRAYSCALE)
    return component[0].h_samp_factor == 1 && component[0].v_samp_factor == 1;
  if (source->jpeg_color_space != JCS_YCbCr || source->num_components != 3)
    return 0;
  int across = component[0].h_samp_factor, down = component[0].v_samp_factor;
  for (int i = 1; i < 3; i++)
    if (component[i].h_samp_factor != 1 || component[i].v_samp_factor != 1)
      return 0;
  return across <= 2 && down <= 2 && (!small || (across == 2 && down == 2));
}

/* Return whether the scans had every component, and every bit of every coefficient. */
static int is_complete(j_decompress_ptr source)
{
  for (int i = 0; i < source->num_components; i++) {
    if (source->comp_info[i].quant_table == NULL) /* libjpeg sets it at the component's first scan */
      return 0;
    if (source->progressive_mode)
      for (int k = 0; k < DCTSIZE2; k++)
        if (source->coef_bits[i][k] != 0)
          return 0;
  }
  return 1;
}

static void use_fitted_tables(j_compress_ptr target)
{
  for (int i = 0; i < 2; i++) {
    JHUFF_TBL *dc = target->dc_huff_tbl_ptrs[i], *ac = target->ac_huff_tbl_ptrs[i];
    memcpy(dc->bits + 1, DC_TABLES[i].bits, sizeof DC_TABLES[i].bits);
    memcpy(dc->huffval, DC_TABLES[i].symbols, sizeof DC_TABLES[i].symbols);
    memcpy(ac->bits + 1, AC_TABLES[i].bits, sizeof AC_TABLES[i].bits);
    memcpy(ac->huffval, AC_TABLES[i].symbols, sizeof AC_TABLES[i].symbols);
  }
}

static void set_target(j_compress_ptr target, j_decompress_ptr source, int quality, int small)
{
  jpeg_copy_critical_parameters(source, target);
  jpeg_set_quality(target, quality, TRUE);
  target->density_unit = 0; /* metadata: what ordinary outputs have */
  target->X_density = target->Y_density = 1;
  target->JFIF_major_version = target->JFIF_minor_version = 1;
  target->write_JFIF_header = TRUE;
  for (int i = 0; i < target->num_components; i++) {
    target->comp_info[i].component_id = i + 1;
    target->comp_info[i].quant_tbl_no = i ? 1 : 0;
  }
  target->optimize_coding = small || quality < MIN_FITTED_QUALITY || quality > MAX_FITTED_QUALITY;
  if (!target->optimize_coding)
    use_fitted_tables(target);
}

static void requantise_component(Conversion *conversion, int index, jvirt_barray_ptr coefficients)
{
  j_decompress_ptr source = &conversion->source;
  jpeg_component_info *component = source->comp_info + index;
  int table = conversion->target.comp_info[index].quant_tbl_no;
  const UINT16 *old = component->quant_table->quantval;
  const UINT16 *new = conversion->target.quant_tbl_ptrs[table]->quantval;
  float ratios[DCTSIZE2], rounding[DCTSIZE2];
  for (int k = 0; k < DCTSIZE2; k++) {
    ratios[k] = (float)old[k] / (float)new[k];
    rounding[k] = k ? AC_ROUNDING : DC_ROUNDING;
  }
  for (JDIMENSION row = 0; row < component->height_in_blocks; row++) {
    JBLOCKARRAY blocks = source->mem->access_virt_barray((j_common_ptr)source, coefficients, row, 1, TRUE);
    requantise_blocks(blocks[0][0], component->width_in_blocks, ratios, rounding);
  }
}

/* Write the file to `output`, and set `size`. Return whether that was possible. */
static int convert(Conversion *conversion, const unsigned char *data, size_t size, int quality, int small)
{
  j_decompress_ptr source = &conversion->source;
  j_compress_ptr target = &conversion->target;
  if (setjmp(conversion->refuse))
    return 0;
  jpeg_create_decompress(source);
  jpeg_create_compress(target);
  source->progress = target->progress = &conversion->progress;
  jpeg_mem_src(source, data, (unsigned long)size);
  jpeg_read_header(source, TRUE);
  if (!is_supported(source, small))
    return 0;
  jvirt_barray_ptr *coefficients = jpeg_read_coefficients(source);
  if (!is_complete(source))
    return 0;
  target->dest = &conversion->destination;
  set_target(target, source, quality, small);
  for (int i = 0; i < source->num_components; i++)
    requantise_component(conversion, i, coefficients[i]);
  jpeg_write_coefficients(target, coefficients);
  jpeg_finish_compress(target);
  return 1;
}

static void set_callbacks(Conversion *conversion)
{
  jpeg_std_error(&conversion->errors);
  conversion->errors.error_exit = refuse;
  conversion->errors.emit_message = refuse_warning;
  conversion->errors.output_message = print_nothing;
  conversion->progress.progress_monitor = check_scan;
  conversion->destination.init_destination = start_output;
  conversion->destination.empty_output_buffer = refuse_large_output;
  conversion->destination.term_destination = end_output;
  conversion->source.err = conversion->target.err = &conversion->errors;
  conversion->source.client_data = conversion->target.client_data = conversion;
}

static PyObject *requantise(PyObject *module, PyObject *arguments)
{
  Py_buffer data;
  int quality, small, is_converted = 0;
  PyObject *result = NULL;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "y*ip:requantise", &data, &quality, &small))
    return NULL;
  Conversion *conversion = calloc(1, sizeof *conversion);
  unsigned char *output = malloc(data.len ? (size_t)data.len : 1);
  if (conversion != NULL && output != NULL) {
    set_callbacks(conversion);
    conversion->output = output;
    conversion->size = (size_t)data.len;
    Py_BEGIN_ALLOW_THREADS
    is_converted = convert(conversion, data.buf, (size_t)data.len, quality, small);
    jpeg_destroy_compress(&conversion->target);
    jpeg_destroy_decompress(&conversion->source);
    Py_END_ALLOW_THREADS
  }
  if (is_converted)
    result = PyBytes_FromStringAndSize((char *)output, (Py_ssize_t)conversion->size);
  else
    result = Py_NewRef(Py_None);
  free(output);
  free(conversion);
  PyBuffer_Release(&data);
  return result;
}

PyDoc_STRVAR(requantise_doc,
             "requantise(data, quality, small)\n--\n\n"
             "Return a JPEG file as a baseline JPEG of this quality, or None if it must be decoded.");

static PyMethodDef METHODS[] = {
    {"requantise", requantise, METH_VARARGS, requantise_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_requantise", "JPEG to JPEG without pixels.", 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__requantise(void)
{
  return PyModuleDef_Init(&MODULE);
}
